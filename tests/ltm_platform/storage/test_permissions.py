"""What runs write is for their user alone, or for a group that is named."""

from __future__ import annotations

import grp
import os
import stat
from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.storage import permissions
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import connect_meanwhile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GROUP = grp.getgrgid(os.getegid()).gr_name


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Of a user whose own files are for all."""
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LTM_PLATFORM_GROUP", raising=False)
    before = os.umask(0)
    yield tmp_path / "home"
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    found = {
        str(path.relative_to(folder)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in (folder, *folder.rglob("*"))
    }
    return {name: mode for name, mode in found.items() if not name.endswith(".lock")}


def fill(home: Path, group: str | None) -> None:
    """As a run does."""
    job = JobSpec.load("quickstart", [f"cluster.group={group}"] if group else [])
    with permissions.private_files(job.cluster.group):
        folder = RunFolder.reserve(job, "one")
        folder.log.write_text("")
        (folder.path / "checkpoint").mkdir()
        connect_meanwhile(f"sqlite:///{home}/mlflow.db").join()


def test_what_a_run_writes_is_for_its_user_alone(home: Path) -> None:
    fill(home, None)
    found = modes(home)
    assert {"mlflow.db", "runs/one/run.log", "runs/one/checkpoint"} <= found.keys()
    assert set(found.values()) == {"0o700", "0o600"}
    assert os.umask(0) == 0


@pytest.mark.parametrize("how", ["field", "variable"])
def test_a_group_that_is_named_shares_it(
    how: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("LTM_PLATFORM_GROUP", GROUP)
    fill(home, GROUP if how == "field" else None)
    found = modes(home)
    assert found["."] == found["runs/one"] == "0o2770"
    assert found["mlflow.db"] == found["runs/one/run.log"] == "0o660"
    assert (home / "runs" / "one").stat().st_gid == os.getegid()
    assert os.environ.get("LTM_PLATFORM_GROUP") == (GROUP if how == "variable" else None)


def test_a_folder_that_was_there_keeps_its_mode(home: Path) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    permissions.make_folder(home / "a" / "b")
    assert modes(home) == {".": "0o755", "a": "0o700", "a/b": "0o700"}


def test_a_group_that_is_not_known_is_told(home: Path) -> None:
    with (
        pytest.raises(UserError, match=f"group '{GROUP}x' .*did you mean '{GROUP}'"),
        permissions.private_files(f"{GROUP}x"),
    ):
        pass
    assert "LTM_PLATFORM_GROUP" not in os.environ
    assert not home.exists()
