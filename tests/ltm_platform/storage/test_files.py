"""Files that are there whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.storage.files import check_writable, written_whole

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with written_whole(path) as part:
        assert (part.parent, part.suffix) == (tmp_path, ".csv")
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error), written_whole(path) as part:
        part.write_text("ne")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_nobody_wrote_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "table.csv"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_a_file_can_be_is_known_before_it_is_written(tmp_path: Path) -> None:
    check_writable(tmp_path / "table.csv", "--out")
    with pytest.raises(UserError, match=r"--out is .*, which is a folder"):
        check_writable(tmp_path, "--out")
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/none"):
        check_writable(tmp_path / "none" / "table.csv", "--out")
    assert list(tmp_path.iterdir()) == []
