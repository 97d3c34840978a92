from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ltm_platform.data import Dataset, open_dataset

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset("digits", cache=tmp_path_factory.mktemp("cache"), val_fraction=0.5)


class Tree:
    """Writes small pictures below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, *paths: str) -> Tree:
        for number, path in enumerate(paths):
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (20 * number % 256, 100, 50)).save(file)
        return self


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "images")
