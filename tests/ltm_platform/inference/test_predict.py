"""Classes of single images, and heatmaps of what was merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from ltm_platform import api
from ltm_platform.errors import UserError
from ltm_platform.inference.predict import (
    Guess,
    draw_heatmaps,
    predict,
    read_images,
    to_input,
)
from ltm_platform.inference.trained_network import StoredNetwork, load_network

if TYPE_CHECKING:
    from ..conftest import MakeCheckpoint


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> StoredNetwork:
    return load_network(checkpoint)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """20 images of several sizes and modes, two of the same name."""
    paths = []
    for number in range(20):
        folder = tmp_path / f"folder{number % 2}"
        folder.mkdir(exist_ok=True)
        path = folder / ("same.png" if number < 2 else f"{number}.png")
        mode = "L" if number % 3 else "RGBA"
        Image.effect_noise((40 + number, 50), 80).convert(mode).save(path)
        paths.append(str(path))
    return paths


def test_probabilities_are_those_of_the_network(network: StoredNetwork, files: list[str]) -> None:
    images = to_input(read_images(files), network.pixels)
    found = predict(network, files, images, top=3)
    assert [one.image for one in found] == files
    with torch.no_grad():
        probabilities = network.model(images).softmax(1)
    for one, expected in zip(found, probabilities, strict=True):
        assert one.guesses[0].label == str(int(expected.argmax()))
        values = [guess.probability for guess in one.guesses]
        assert values == pytest.approx(expected.sort(descending=True).values[:3].tolist(), abs=1e-5)
    (everything,) = predict(network, files[:1], images[:1], top=99)
    assert sum(guess.probability for guess in everything.guesses) == pytest.approx(1)


def test_a_heatmap_an_image_large_enough_to_look_at(
    network: StoredNetwork, files: list[str], tmp_path: Path
) -> None:
    images = to_input(read_images(files[:3]), network.pixels)
    drawn = draw_heatmaps(network, files[:3], images, tmp_path / "maps")
    names = ["same_heatmap.png", "same_2_heatmap.png", "2_heatmap.png"]
    assert [one.path.name for one in drawn] == names
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == sorted(names)
    for one in drawn:
        assert one.sources >= 1
        with Image.open(one.path) as picture:
            assert picture.size == (448, 448)
    corner = draw_heatmaps(network, files[:1], images[:1], tmp_path / "maps", target=(0, 0))
    with Image.open(corner[0].path) as picture:
        assert picture.getpixel((0, 0)) == (26, 255, 51)  # the frame of the token


def test_what_cannot_be_drawn_is_told(
    network: StoredNetwork, make_checkpoint: MakeCheckpoint, files: list[str], tmp_path: Path
) -> None:
    base = load_network(make_checkpoint("model.method=none", "model.compression_ratio=null"))
    images = to_input(read_images(files[:1]), network.pixels)
    with pytest.raises(UserError, match="merges nothing"):
        draw_heatmaps(base, files[:1], images, tmp_path / "maps")
    with pytest.raises(UserError, match="rows 0 to 7"):
        draw_heatmaps(network, files[:1], images, tmp_path / "maps", target=(8, 0))
    assert not (tmp_path / "maps").exists()


def test_a_file_that_is_no_image_is_told(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    whole = Path(files[0]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, says in (
        ("notes.txt", "not an image of a known format"),
        ("cut.png", "cannot be read as an image"),
        ("none.png", "does not exist"),
        (".", "is a folder"),
    ):
        with pytest.raises(UserError, match=says):
            read_images([*files, str(tmp_path / name)])


@pytest.fixture
def phone_picture(tmp_path: Path) -> tuple[str, str]:
    """A picture upright, and lying on its side with the note how to turn it."""
    upright = Image.linear_gradient("L").resize((40, 50)).convert("RGB")
    exif = Image.Exif()
    exif[274] = 6
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.png", exif=exif)
    return str(tmp_path / "upright.png"), str(tmp_path / "phone.png")


def guesses(checkpoint: Path, *files: str) -> list[list[Guess]]:
    """Of each file alone: in a batch the last digit of a probability depends on the place."""
    return [api.predict(checkpoint, [file], top=10).predictions[0].guesses for file in files]


def test_a_phone_picture_is_classified_and_drawn_as_the_upright_one(
    checkpoint: Path, phone_picture: tuple[str, str], tmp_path: Path
) -> None:
    upright, phone = guesses(checkpoint, *phone_picture)
    assert upright == phone
    drawn = api.predict(checkpoint, phone_picture, heatmaps=tmp_path / "maps").heatmaps
    first, second = (one.path.read_bytes() for one in drawn)
    assert first == second


def test_a_network_that_learned_pictures_as_they_are_stored_is_shown_them_so(
    make_checkpoint: MakeCheckpoint, phone_picture: tuple[str, str]
) -> None:
    upright, phone = guesses(make_checkpoint("data.exif=false"), *phone_picture)
    assert upright != phone


def test_transparent_pixels_are_shown_by_the_networks_own_rule(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    files = [str(tmp_path / f"{name}.png") for name in ("clear", "white", "red")]
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(files[0])
    Image.new("RGB", (32, 32), "white").save(files[1])
    Image.new("RGB", (32, 32), "red").save(files[2])
    clear, white, red = guesses(make_checkpoint("data.background=white"), *files)
    assert clear == white != red
    clear, white, red = guesses(make_checkpoint("data.background=hidden"), *files)
    assert clear == red != white
