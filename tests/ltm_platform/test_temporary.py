from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 3000
"""To remove them takes longer than `BEGUN_S`."""
BEGUN_S = 0.005


@contextmanager
def interrupted_by_alarms() -> Iterator[None]:
    """In the block an alarm is an interrupt, as SIGTERM is in a command."""
    usual = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def test_a_folder_goes_when_its_block_ends_or_fails(tmp_path: Path) -> None:
    with temporary_folder("some-", tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith("some-")
        (folder / "file").write_bytes(b"bytes")
    with pytest.raises(ZeroDivisionError), temporary_folder("some-", tmp_path):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_it_is_removed_leaves_nothing(tmp_path: Path) -> None:
    with (
        interrupted_by_alarms(),
        pytest.raises(KeyboardInterrupt),
        temporary_folder("some-", tmp_path) as folder,
    ):
        for number in range(FILES):
            (folder / str(number)).touch()
        signal.setitimer(signal.ITIMER_REAL, BEGUN_S)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_it_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Path.mkdir

    def interrupted(folder: Path, mode: int) -> None:
        usual(folder, mode)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), temporary_folder("some-", tmp_path):
        raise AssertionError("the block is not entered")
    assert list(tmp_path.iterdir()) == []


INTERRUPTED = """
import os, signal

usual = os.open

def interrupted(path, *args, **kwargs):
    file = usual(path, *args, **kwargs)
    if str(path).startswith(os.environ["TMPDIR"]):
        signal.raise_signal(signal.SIGINT)
    return file

os.open = interrupted
from ltm_platform.cli.app import main

main(["models"])
"""


def test_an_interrupt_while_the_place_is_tried_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.strip()) == (130, "stopped")
    assert list(tmp_path.iterdir()) == []
