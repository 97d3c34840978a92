"""Images without labels have those that a network gives them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ltm_platform import api
from ltm_platform.data import open_dataset
from ltm_platform.data.importing import REPORT, import_images
from ltm_platform.errors import UserError
from ltm_platform.inference.export import export
from ltm_platform.inference.trained_network import load_network


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Without classes: some loose, some in folders, and one that is damaged."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    for number in range(40):
        file = folder / ("more/deep" if number % 2 else "") / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(file)
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("what these are")
    return folder


def test_each_image_has_the_class_that_the_network_gives_it(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    labeller = api.labels_of(checkpoint)
    made = import_images(str(pictures), str(shards), labeller=labeller, allow_bad=0.1)
    assert made.classes == labeller.classes
    assert (sum(made.images.values()), made.skipped) == (40, 1)
    assert any("notes.txt" in notice or "1 file" in notice for notice in made.notices)
    report = json.loads((shards / REPORT).read_text())
    assert report["labels_of"] == labeller.name

    dataset = open_dataset(str(shards), cache=tmp_path / "cache", val_fraction=0.2)
    assert dataset.classes == labeller.classes, "also those that no image has"
    files = [str(file) for file in pictures.rglob("*.png") if file.name != "bad.png"]
    said = api.predict(checkpoint, files, top=1)
    expected = {Path(one.image).read_bytes(): one.guesses[0].label for one in said.predictions}
    found = {
        image: dataset.classes[label]
        for part in (dataset.train, dataset.val)
        for image, label in part.read(np.arange(len(part)))
    }
    assert found == expected


def test_what_has_labels_keeps_them(checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    labeller = api.labels_of(checkpoint)
    shards = str(tmp_path / "shards")
    import_images(str(pictures), shards, labeller=labeller, allow_bad=0.1)
    with pytest.raises(UserError, match="has labels"):
        import_images(shards, str(tmp_path / "again"), labeller=labeller)


def test_a_folder_without_images_is_a_sentence(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        import_images(
            str(tmp_path / "empty"), str(tmp_path / "s"), labeller=api.labels_of(checkpoint)
        )


def test_a_folder_as_timm_has_them_labels_as_the_run_that_it_was_exported_from(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    export(load_network(checkpoint), "folder", tmp_path / "timm")
    images = [file.read_bytes() for file in sorted(pictures.rglob("*.png"))]
    timms = api.labels_of(f"local-dir:{tmp_path / 'timm'}")
    of_run = api.labels_of(checkpoint, ratio=1.0)
    assert timms.classes == of_run.classes
    assert timms(images) == of_run(images)
    assert timms([b"no picture"]) == [None]


def test_weights_that_cannot_be_had_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"local-dir.* cannot be had"):
        api.labels_of(f"local-dir:{tmp_path / 'none'}")
