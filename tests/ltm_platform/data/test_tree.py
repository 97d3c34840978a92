"""One rule for folders, stores and archives: what is an image, of which class, and what is not."""

from __future__ import annotations

import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ltm_platform.data import Dataset, open_dataset
from ltm_platform.data.decode import decode_rgb
from ltm_platform.data.importing import import_images
from ltm_platform.data.tree import (
    BESIDE,
    EXTENSIONS,
    HIDDEN,
    LEADS_NOWHERE,
    NO_CLASS,
    OF_THE_SYSTEM,
    READ_ALREADY,
    arrange,
    class_folders,
    list_folder,
)
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Tree

JUNK = {
    "__MACOSX/a/._1.jpg": OF_THE_SYSTEM,
    "a/._1.jpg": HIDDEN,
    "a/.ipynb_checkpoints/1.jpg": HIDDEN,
    ".DS_Store": HIDDEN,
    "a/Thumbs.db": OF_THE_SYSTEM,
    "b/notes.txt": "not an image by their ending, .txt",
    "b/phone.HEIC": "not an image by their ending, .heic",
    "cover.jpg": NO_CLASS,
}
LISTED = {path: reason for path, reason in JUNK.items() if path.count("/") < 2} | {
    "__MACOSX": OF_THE_SYSTEM,
    "a/.ipynb_checkpoints": HIDDEN,
}
"""A folder that is left out is named once."""


def shown(root: Path) -> Dataset:
    return open_dataset(str(root), cache=root, val_fraction=0.5)


def spoil(root: Path, split: str = "") -> None:
    for path in JUNK:
        file = root / split / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"junk")


def pack(root: Path, top: str) -> Path:
    tar = root.parent / "images.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(root, top)
    return tar


SOURCES: dict[str, Callable[[Path], str]] = {
    "folder": str,
    "store": lambda root: f"fsspec+file://{root}",
    "tar": lambda root: str(pack(root, ".")),
    "tar with a folder around": lambda root: str(pack(root, "images")),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("split", ["", "train"])
def test_junk_is_neither_class_nor_image_and_is_listed(
    tree: Tree, tmp_path: Path, kind: str, split: str
) -> None:
    for part in {split, "val" if split else ""}:
        tree.add(*(os.path.join(part, f"{name}/{i}.jpg") for name in "ab" for i in range(2)))
    spoil(tree.root, split)
    made = import_images(SOURCES[kind](tree.root), str(tmp_path / "out"))
    direct = shown(tree.root)
    assert made.classes == direct.classes == ("a", "b")
    assert sum(made.images.values()) == len(direct.train) + len(direct.val)
    report = json.loads((tmp_path / "out/report.json").read_text())
    listed = {one["image"]: one["reason"] for one in report["skipped"]}
    assert listed == {os.path.join(split, path): reason for path, reason in LISTED.items()}
    assert made.notices == direct.notices
    (sentence,) = made.notices
    assert sentence.startswith("8 left out that are no images of a class: 3 hidden (such as ")
    assert "1 not an image by their ending, .heic (such as " in sentence


def test_every_ending_is_one_that_pillow_reads() -> None:
    known = Image.registered_extensions()
    assert [one for one in EXTENSIONS if known.get(one) not in {*Image.OPEN, "MPO"}] == []


FORMATS = {
    "gif": "GIF",
    "tif": "TIFF",
    "TIFF": "TIFF",
    "jfif": "JPEG",
    "JPE": "JPEG",
    "pgm": "PPM",
    "ppm": "PPM",
    "avif": "AVIF",
    "jp2": "JPEG2000",
    "tga": "TGA",
    "webp": "WEBP",
}


def test_a_class_of_gifs_is_read_as_one_of_jpegs_is(tree: Tree, tmp_path: Path) -> None:
    grey = Image.new("L", (16, 16), 200)
    for ending, form in FORMATS.items():
        for number in range(2):
            file = tree.root / ending / f"{number}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            grey.save(file, form)
    made = import_images(str(tree.root), str(tmp_path / "out"))
    assert made.skipped == 0
    for data in (shown(tree.root), shown(tmp_path / "out")):
        assert data.classes == tuple(sorted(FORMATS))
        for image, _ in data.train.read(range(len(data.train))):
            np.testing.assert_allclose(np.asarray(decode_rgb(image)), 200, atol=2)


def test_of_a_film_the_first_frame_is_shown(tree: Tree) -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for name, ending in (("a", "gif"), ("b", "tif"), ("c", "webp")):
        (tree.root / name).mkdir(parents=True)
        for number in range(2):
            red.save(
                tree.root / name / f"{number}.{ending}",
                save_all=True,
                append_images=[blue],
                **({"lossless": True} if ending == "webp" else {}),
            )
    for data, _ in shown(tree.root).train.read([0, 1, 2]):
        assert decode_rgb(data).getpixel((1, 1)) == (255, 0, 0)


@pytest.mark.parametrize("files", [(), ("x.heic",), (".DS_Store", "._1.jpg")])
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_class_that_would_vanish_is_named(
    tree: Tree, tmp_path: Path, kind: str, files: tuple[str, ...]
) -> None:
    tree.add("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    (tree.root / "bird").mkdir()
    for file in files:
        (tree.root / "bird" / file).write_bytes(b"junk")
    with pytest.raises(UserError, match="bird holds no image") as refused:
        import_images(SOURCES[kind](tree.root), str(tmp_path / "out"))
    with pytest.raises(UserError) as not_shown:
        shown(tree.root)
    if kind == "folder":
        assert str(refused.value) == str(not_shown.value)
    for file in files:
        assert "left out, such as bird/" in str(refused.value), file
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_class_of_which_no_image_can_be_read_is_named(tree: Tree, tmp_path: Path) -> None:
    tree.add(*(f"cat/{i}.png" for i in range(4)), *(f"dog/{i}.png" for i in range(4)))
    for number in range(4):
        (tree.root / f"dog/{number}.png").write_bytes(b"junk")
    with pytest.raises(UserError, match="class 'dog' has no training image that can be used"):
        import_images(str(tree.root), str(tmp_path / "out"), allow_bad=1)
    with pytest.raises(UserError, match="not finished"):
        shown(tmp_path / "out")


@pytest.mark.parametrize("kind", ["folder", "store", "tar"])
def test_folders_beside_a_training_part_alone_are_not_lost(
    tree: Tree, tmp_path: Path, kind: str
) -> None:
    tree.add("train/1.jpg", "train/wheel/2.jpg", "plane/1.jpg", "car/1.jpg")
    with pytest.raises(UserError, match=r"has train/ without val/, but .*: car/ and 1 more"):
        import_images(SOURCES[kind](tree.root), str(tmp_path / "out"))


def test_what_lies_beside_the_splits_is_listed(tree: Tree) -> None:
    tree.add("train/a/1.jpg", "val/a/1.jpg", "test/1.jpg", "validation/a/2.jpg", "train/2.jpg")
    found = arrange(list_folder(str(tree.root)), str(tree.root))
    assert dict(found.left_out) == {
        "test/1.jpg": BESIDE,
        "validation/a/2.jpg": BESIDE,
        "train/2.jpg": NO_CLASS,
    }


def test_a_notice_in_the_folder_around_a_tar_makes_no_class_of_it(
    tree: Tree, tmp_path: Path
) -> None:
    tree.add("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg", "cover.jpg")
    (tree.root / "README").write_text("ours")
    made = import_images(str(pack(tree.root, "images")), str(tmp_path / "out"))
    assert made.classes == ("a", "b")


def test_a_link_to_a_class_folder_is_said(tree: Tree, tmp_path: Path) -> None:
    tree.add("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    (tree.root / "kitten").symlink_to(tree.root / "cat", target_is_directory=True)
    data = shown(tree.root)
    assert data.classes == ("cat", "dog", "kitten")
    said = f"{tree.root}/kitten is a link to the folder of cat: its images count twice"
    assert data.notices == (said,)
    assert import_images(str(tree.root), str(tmp_path / "out")).notices == (said,)


def test_two_links_to_one_folder_elsewhere_are_said_but_not_the_first(
    tree: Tree, tmp_path: Path
) -> None:
    tree.add("cat/1.jpg", "cat/2.jpg")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("L", (4, 4)).save(elsewhere / "1.png")
    Image.new("L", (4, 4)).save(elsewhere / "2.png")
    for name in ("dog", "wolf"):
        (tree.root / name).symlink_to(elsewhere, target_is_directory=True)
    data = shown(tree.root)
    assert data.classes == ("cat", "dog", "wolf")
    (said,) = data.notices
    assert said.endswith("wolf is a link to the folder of dog: its images count twice")


def test_links_in_a_circle_come_to_an_end(tree: Tree) -> None:
    tree.add("cat/deep/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    for path, target in (("cat/deep/up", "../.."), ("cat/other", "../dog"), ("all", ".")):
        (tree.root / path).symlink_to(target, target_is_directory=True)
    (tree.root / "dog/gone.jpg").symlink_to("nowhere.jpg")
    found = arrange(list_folder(str(tree.root)), str(tree.root))
    assert [file.path for _, file in found.splits["train"]] == [
        "cat/2.jpg",
        "cat/deep/1.jpg",
        "dog/1.jpg",
        "dog/2.jpg",
    ]
    assert dict(found.left_out) == {
        "cat/deep/up": READ_ALREADY,
        "cat/other": READ_ALREADY,
        "all": READ_ALREADY,
        "dog/gone.jpg": LEADS_NOWHERE,
    }


def test_a_picture_that_would_come_out_black_is_left_out_by_name(
    tree: Tree, tmp_path: Path
) -> None:
    tree.add("a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png")
    Image.fromarray(np.full((4, 4), 70.0, dtype=np.float32)).save(tree.root / "a/depth.tif")
    import_images(str(tree.root), str(tmp_path / "out"), allow_bad=0.5)
    (one,) = json.loads((tmp_path / "out/report.json").read_text())["skipped"]
    assert one["image"] == "a/depth.tif"
    assert "its values are floats from 70 to 70: allowed are 8 and 16 bits" in one["reason"]


def test_16_bit_pictures_import_and_decode_as_they_are(tree: Tree, tmp_path: Path) -> None:
    for name, value in (("dark", 257 * 5), ("light", 257 * 250)):
        (tree.root / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((4, 4), value, dtype=np.uint16)
            Image.fromarray(pixels).save(tree.root / name / f"{number}.png")
    import_images(str(tree.root), str(tmp_path / "out"))
    data = shown(tmp_path / "out")
    for image, label in data.train.read(range(len(data.train))):
        assert Image.open(io.BytesIO(image)).mode == "I;16"
        assert decode_rgb(image).getpixel((0, 0)) == ((5,) * 3, (250,) * 3)[label]


def test_class_names_are_known_without_a_look_at_images(tree: Tree) -> None:
    tree.add("b/1.jpg", "a/1.jpg", "__MACOSX/a/1.jpg", ".git/1.jpg")
    assert class_folders(str(tree.root)) == ("a", "b")
    with pytest.raises(UserError, match="b holds no class folders with images"):
        class_folders(str(tree.root / "b"))
    with pytest.raises(UserError, match="none cannot be read: No such file"):
        class_folders(str(tree.root / "none"))
