"""A folder that is none of images is given up, and a long search says how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.data import open_dataset
from ltm_platform.errors import UserError
from ltm_platform.storage import search

if TYPE_CHECKING:
    from pathlib import Path


def files(folder: Path, count: int, ending: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{number}.{ending}").touch()


def test_a_folder_without_images_is_not_walked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_WITHOUT_IMAGES", 50)
    files(tmp_path / "a", 60, "txt")
    with pytest.raises(UserError, match="is no folder of images: of its first"):
        open_dataset(str(tmp_path), cache=tmp_path, val_fraction=0.5)


def test_many_other_files_beside_images_are_no_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MOST_WITHOUT_IMAGES", 50)
    for name in "ab":
        files(tmp_path / name, 40, "txt")
        files(tmp_path / name, 4, "png")
    assert len(open_dataset(str(tmp_path), cache=tmp_path, val_fraction=0.5).train) == 4


def test_a_long_search_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SAY_EVERY_S", 0.0)
    for name in "ab":
        files(tmp_path / name, 2, "png")
    said: list[str] = []
    with search.telling(said.append):
        open_dataset(str(tmp_path), cache=tmp_path, val_fraction=0.5)
    assert said[-1] == f"{tmp_path}: 6 files seen, 4 of them images"
    count = len(said)
    open_dataset(str(tmp_path), cache=tmp_path, val_fraction=0.5)
    assert len(said) == count


@pytest.mark.parametrize("path", ["/proc", "/proc/self", "/sys"])
def test_what_the_kernel_shows_as_files_is_no_data(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{path} is no folder of images: its files are the kernel"):
        open_dataset(path, cache=tmp_path, val_fraction=0.25)
