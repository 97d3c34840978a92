import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ltm import plugins
from ltm_platform.data import open_dataset
from ltm_platform.data.sources import find_source
from ltm_platform.data.sources.digits import Digits
from ltm_platform.data.sources.folder import Folder
from ltm_platform.data.sources.shards import Record, Shards, write_shards
from ltm_platform.errors import UserError

from ....ltm.packages import install

COLOURS = """
import io
import numpy as np
from PIL import Image
from ltm_platform.data.source import DataSource


class Images:
    classes = ("red", "blue")
    labels = np.array([0, 1, 0, 1])

    def __len__(self):
        return 4

    def read(self, indices):
        rows = []
        for i in indices:
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), self.classes[self.labels[i]]).save(buffer, "PNG")
            rows.append((buffer.getvalue(), int(self.labels[i])))
        return rows

    def locate(self, index):
        return f"colour {index}"


class Colours(DataSource):
    word = "colours"

    def open(self, *, val_fraction, copies=None):
        return Images(), Images()

    def class_names(self):
        return Images.classes
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package beside ours, as pip would have installed it, with a source called colours."""
    root = tmp_path / "site"
    sources = {"ltm_platform.sources": {"colours": "colours:Colours"}}
    install(root, "colours", {"colours.py": COLOURS}, sources)
    monkeypatch.syspath_prepend(str(root))
    plugins._points.cache_clear()
    yield root / "colours-1.0.dist-info"
    sys.modules.pop("colours", None)
    plugins._points.cache_clear()


def shards(folder: Path) -> Path:
    for split in ("train", "val"):
        write_shards(folder, split, [Record(b"x", 0, "a")], ["one"])
    return folder


def test_a_path_is_of_the_source_that_claims_it(tmp_path: Path) -> None:
    (tmp_path / "tree" / "cat").mkdir(parents=True)
    sharded = shards(tmp_path / "sharded")

    assert isinstance(find_source("digits", tmp_path), Digits)
    assert isinstance(find_source(str(sharded), tmp_path), Shards)
    assert isinstance(find_source(str(tmp_path / "tree"), tmp_path), Folder)


def test_a_folder_called_like_a_word_is_named_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert isinstance(find_source("./digits", tmp_path), Folder)
    assert find_source("./digits", tmp_path).absolute_path == str(tmp_path / "digits")
    assert find_source("digits", tmp_path).absolute_path == "digits"


def test_shards_alone_can_be_copied_to_a_node(tmp_path: Path) -> None:
    (tmp_path / "tree" / "cat").mkdir(parents=True)

    assert find_source(str(shards(tmp_path / "sharded")), tmp_path).cacheable
    assert not find_source(str(tmp_path / "tree"), tmp_path).cacheable
    assert not find_source("digits", tmp_path).cacheable


@pytest.mark.parametrize("kind", ["digits", "shards", "folder"])
def test_class_names_are_those_of_the_opened_set(tmp_path: Path, kind: str) -> None:
    path = "digits"
    if kind == "shards":
        path = str(shards(tmp_path / "set"))
    if kind == "folder":
        path = str(tmp_path / "set")
        for name in ("train/b/1.png", "train/a/2.png", "val/a/3.png", "val/b/4.png"):
            (tmp_path / "set" / name).parent.mkdir(parents=True)
            (tmp_path / "set" / name).write_bytes(b"")
    source = find_source(path, tmp_path / "cache")

    names = source.class_names()

    assert names == source.open(val_fraction=0.5)[1].classes


@pytest.mark.usefixtures("package")
def test_another_package_adds_a_source(tmp_path: Path) -> None:
    found = open_dataset("colours", cache=tmp_path, val_fraction=0.2)

    assert found.classes == ("red", "blue")
    assert np.array_equal(found.train.labels, [0, 1, 0, 1])
    assert find_source("colours", tmp_path).absolute_path == "colours"


@pytest.mark.usefixtures("package")
def test_a_word_that_is_nearly_that_of_another_packages_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'colours'"):
        find_source("colour", tmp_path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [("colours:Missing", "AttributeError"), ("colours:Images", "is no ltm_platform.data.source")],
)
def test_a_source_that_cannot_be_loaded_names_its_package(
    package: Path, tmp_path: Path, value: str, reason: str
) -> None:
    (package / "entry_points.txt").write_text(f"[ltm_platform.sources]\ncolours = {value}\n")

    with pytest.raises(UserError, match=f"package 'colours' .*{reason}"):
        find_source("colours", tmp_path)
