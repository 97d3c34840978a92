from __future__ import annotations

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_platform.data import Dataset, open_dataset
from ltm_platform.data.sources.shards import Record, write_shards
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from conftest import Tree


def open_tree(root: Path, val_fraction: float = 0.25) -> Dataset:
    return open_dataset(str(root), cache=root / "unused", val_fraction=val_fraction)


@pytest.mark.parametrize("val", ["val", "validation", "valid", "test"])
def test_tree_with_both_parts(tree: Tree, val: str) -> None:
    tree.add("train/b/2.png", "train/b/1.JPEG", "train/a/deep/x.webp", f"{val}/a/y.bmp")
    tree.add(f"{val}/b/z.jpg")
    (tree.root / "train/a/.hidden.png").write_bytes(b"junk")
    (tree.root / "train/a/notes.txt").write_text("no image")
    data = open_tree(tree.root)
    assert data.classes == ("a", "b")
    assert data.train.labels.tolist() == [0, 1, 1]
    assert [data.train.locate(i).split("'")[1] for i in range(3)] == [
        "a/deep/x.webp",
        "b/1.JPEG",
        "b/2.png",
    ]
    assert data.train.read([2, 0]) == [
        ((tree.root / "train/b/2.png").read_bytes(), 1),
        ((tree.root / "train/a/deep/x.webp").read_bytes(), 0),
    ]
    assert data.describe().endswith("3 training and 2 validation images, 2 classes")
    assert any("test/ is taken for validation" in one for one in data.notices) == (val == "test")


@pytest.mark.parametrize("name", ["valid", "test"])
def test_a_class_may_be_called_like_a_part(tree: Tree, name: str) -> None:
    tree.add(*[f"{folder}/{i}.png" for folder in ("a", name) for i in range(4)])
    assert open_tree(tree.root).classes == ("a", name)


def test_a_test_part_without_classes_is_no_validation_part(tree: Tree) -> None:
    tree.add("train/a/1.png", "train/b/1.png", "valid/a/1.png", "valid/b/2.png", "test/a/1.png")
    data = open_tree(tree.root)
    assert len(data.val) == 2
    tree.add("test/1.png")
    (tree.root / "test/a/1.png").unlink()
    (tree.root / "test/a").rmdir()
    (tree.root / "valid").rename(tree.root / ".valid")
    with pytest.raises(UserError, match=r"has train/ without val/, but other folders .*: test/"):
        open_tree(tree.root)


def test_tree_of_classes_alone_is_split(tree: Tree) -> None:
    tree.add(*[f"{name}/{i}.png" for name in "ab" for i in range(8)], "c/1.png", "c/2.png")
    data = open_tree(tree.root)
    assert sorted(data.val.labels.tolist()) == [0, 0, 1, 1, 2]
    files = {s.locate(i) for s in (data.train, data.val) for i in range(len(s))}
    assert len(files) == 18


def test_file_names_need_not_be_utf8(tree: Tree) -> None:
    tree.add("train/a/1.png", "val/a/1.png")
    odd = bytes(tree.root / "train/a") + b"/\xff.png"
    Path(tree.root / "train/a/1.png").rename(Path(odd.decode("utf-8", "surrogateescape")))
    assert len(open_tree(tree.root).train.read([0])[0][0]) > 0


@pytest.mark.parametrize(
    ("files", "empty", "sentence"),
    [
        ([], ["x"], "QOI or SGI) in a class folder; expected train/<class>/*.jpg"),
        ([], ["."], "images holds no class folders with images; expected train/<class>/*.jpg"),
        (["a/1.png"], ["b"], "images/b holds no image"),
        (["train/a/1.png"], [], "images has train/ but no val/ beside it"),
        (["val/a/1.png"], [], "images has val/ but no train/ beside it"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png"],
            [],
            "images/train has the class 'b' that",
        ),
        (
            ["train/a/1.png", "val/a/1.png", "val/b/1.png", "val/c/1.png"],
            [],
            "images/val has the class 'b' and 1 more that",
        ),
        (["a/1.png", "b/1.png"], [], "images has one image a class"),
    ],
)
def test_a_wrong_tree_is_explained_in_one_sentence(
    tree: Tree, files: list[str], empty: list[str], sentence: str
) -> None:
    tree.add(*files)
    for folder in empty:
        (tree.root / folder).mkdir(parents=True)
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        open_tree(tree.root)
    assert "\n" not in str(caught.value)
    assert str(tree.root) in str(caught.value)


def test_folder_of_shards(tmp_path: Path) -> None:
    records = [Record(b"image", i % 2, str(i)) for i in range(6)]
    write_shards(tmp_path, "train", records, ["no", "yes"])
    with pytest.raises(UserError, match="val holds no shards"):
        open_tree(tmp_path)
    write_shards(tmp_path, "val", records[:2], ["no", "yes"])
    data = open_tree(tmp_path)
    assert (len(data.train), len(data.val), data.classes) == (6, 2, ("no", "yes"))


def test_shards_in_a_store_are_opened_by_address(tmp_path: Path) -> None:
    records = [Record(bytes([i]), i % 2, str(i)) for i in range(6)]
    for split in ("train", "val"):
        write_shards(tmp_path, split, records, ["no", "yes"], shard_bytes=2)
    # A filesystem other than pyarrow's local one.
    for address in (f"fsspec+file://{tmp_path}", f"file://{tmp_path}"):
        data = open_dataset(address, cache=tmp_path, val_fraction=0.1)
        train = pickle.loads(pickle.dumps(data.train))
        wanted = [5, 0, 3, 3, 4]
        assert train.read(wanted) == [(bytes([i]), i % 2) for i in wanted]
        assert train.labels.tolist() == [0, 1] * 3
        assert train.locate(3).startswith(f"image '3' of {address}/train/0000")


def test_addresses_that_lead_nowhere_are_explained(tmp_path: Path) -> None:
    def message(address: str) -> str:
        with pytest.raises(UserError) as caught:
            open_dataset(address, cache=tmp_path, val_fraction=0.1)
        return str(caught.value)

    assert message(f"fsspec+file://{tmp_path}/no").endswith("no such folder in that store.")
    assert "Unrecognized filesystem type" in message("foo://bucket")
    (tmp_path / "train").mkdir()
    assert "data import fsspec+file://" in message(f"fsspec+file://{tmp_path}")


def test_shards_of_other_classes_are_refused(tmp_path: Path) -> None:
    for split, classes in (("train", ["a"]), ("val", ["b"])):
        write_shards(tmp_path, split, [Record(b"image", 0, "k")], classes)
    with pytest.raises(UserError, match="different classes"):
        open_tree(tmp_path)


def test_what_is_missing_is_said_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def message(path: str) -> str:
        with pytest.raises(UserError) as caught:
            open_dataset(path, cache=tmp_path, val_fraction=0.1)
        return str(caught.value)

    imagenet = message("data/imagenet")
    assert imagenet.startswith(f"data/imagenet not found in {tmp_path}: ")
    assert "https://image-net.org" in imagenet
    assert "--set data.path=FOLDER" in imagenet
    for absolute in ("/nowhere/pets/", "~/nowhere"):
        assert message(absolute).startswith(f"{absolute} not found: ")
    assert "did you mean 'digits'?" in message("digit")
    (tmp_path / "images.tar").write_bytes(b"")
    assert message("images.tar").startswith(f"images.tar in {tmp_path} is not a folder: ")


def test_looking_at_data_does_not_import_torch() -> None:
    heavy = {"torch", "timm", "sklearn"}
    code = f"import sys, ltm_platform.data; print({heavy} & {{*sys.modules}})"
    environment = {"PYTHONPATH": str(Path(__file__).parents[3] / "platform")}
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert answer.stdout.strip() == "set()"
