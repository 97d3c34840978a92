"""A failure to write that no other attempt mends is one sentence with the bytes that it takes."""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from ltm_platform.errors import RunError, UserError
from ltm_platform.storage.room import (
    free_bytes,
    full_disk_ends_run,
    lasting_errno,
    shown_bytes,
    written_or_explained,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file may have more bytes: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_names_the_folder_and_the_bytes(tmp_path: Path, small_files: int) -> None:
    weights = {"weight": torch.zeros(small_files)}
    with pytest.raises(UserError) as error, written_or_explained(tmp_path, 5 * 2**20):
        save_file(weights, tmp_path / "weights.safetensors")
    line = str(error.value)
    assert f"there is no room in {tmp_path}: 5.0 MiB are needed and " in line
    assert "free (File too large)" in line


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(UserError, match=f"nothing can be written to {tmp_path}: "),
        written_or_explained(tmp_path, 1),
    ):
        raise OSError(number, "a reason")


def test_a_disk_that_is_full_for_mlflows_files_ends_the_run_in_a_sentence(
    tmp_path: Path, small_files: int
) -> None:
    with (
        pytest.raises(RunError, match=f"cannot be written: .* are free in {tmp_path}"),
        full_disk_ends_run(tmp_path),
    ):
        (tmp_path / "artifact").write_bytes(bytes(2 * small_files))
    with pytest.raises(UserError, match="its own"), full_disk_ends_run(tmp_path):
        raise UserError("its own") from OSError(errno.ENOSPC, "full")


def test_a_failure_that_may_pass_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="stale"), written_or_explained(tmp_path, 1):
        raise OSError(errno.ESTALE, "stale")


def test_the_cause_is_found_behind_other_errors() -> None:
    full = OSError(errno.ENOSPC, "full")
    other = RuntimeError("the file was not closed")
    other.__cause__ = full
    assert lasting_errno(other) == errno.ENOSPC
    assert lasting_errno(RuntimeError("No space left on device (os error 28)")) == errno.ENOSPC
    assert lasting_errno(RuntimeError("another")) is None


def test_bytes_are_shown_as_people_read_them(tmp_path: Path) -> None:
    assert [shown_bytes(n) for n in (0, 5 * 2**20, 3 * 2**29)] == ["0 bytes", "5.0 MiB", "1.5 GiB"]
    assert free_bytes(tmp_path / "not" / "there") == free_bytes(tmp_path) > 0
