"""An import that makes large pictures smaller, once."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from ltm_platform.data import open_dataset
from ltm_platform.data.importing import import_images
from ltm_platform.data.importing.smaller import Smaller
from ltm_platform.data.sources.shards.layout import METADATA_KEY
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path


def photographs(root: Path) -> dict[str, Image.Image]:
    """A tree of pictures to be made smaller or not, and how they look."""
    photo = Image.fromarray(load_sample_images().images[0])
    lying = Image.Exif()
    lying[274] = 6
    clear = photo.copy()
    clear.putalpha(120)
    pictures = {
        "large.jpg": (photo, {}),
        "lying.jpg": (photo.transpose(Image.Transpose.ROTATE_90), {"exif": lying}),
        "grey.png": (photo.convert("L"), {}),
        "small.jpg": (photo.resize((90, 64)), {}),
        "clear.png": (clear, {}),
    }
    for split in ("train", "val"):
        for name, (picture, options) in pictures.items():
            file = root / split / "a" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file, **options)
    return {name: picture for name, (picture, _) in pictures.items()}


def test_larger_pictures_are_stored_smaller_and_others_as_they_are(tmp_path: Path) -> None:
    root, out = tmp_path / "photographs", tmp_path / "out"
    photo = photographs(root)["large.jpg"]
    smaller = Smaller(short_side=64, quality=85)
    import_images(str(root), str(out), smaller=smaller)
    originals = {path.name: path.read_bytes() for path in (root / "train/a").iterdir()}
    source = open_dataset(str(out), cache=tmp_path, val_fraction=0.2).train
    stored = dict(zip(sorted(originals), (d for d, _ in source.read(range(5))), strict=True))
    for name in ("small.jpg", "clear.png"):
        assert stored[name] == originals[name]
    expected = photo.resize((96, 64), Image.Resampling.LANCZOS)
    for name in ("large.jpg", "lying.jpg", "grey.png"):
        with Image.open(io.BytesIO(stored[name])) as image:
            assert (image.format, image.size) == ("JPEG", (96, 64))
            assert not image.getexif()
            shown = expected.convert("L") if name == "grey.png" else expected
            assert np.abs(np.array(image).astype(int) - np.array(shown)).mean() < 6
    # and it is written down what was done to them
    resized = {"short_side": 64, "quality": 85}
    assert json.loads((out / "report.json").read_bytes())["resized"] == resized
    (shard,) = (out / "train").iterdir()
    assert json.loads(pq.read_metadata(shard).metadata[METADATA_KEY])["resized"] == resized


def test_another_size_is_another_import(tmp_path: Path) -> None:
    root, out = tmp_path / "photographs", str(tmp_path / "out")
    photographs(root)
    import_images(str(root), out, smaller=Smaller(64, 85))
    import_images(str(root), out, smaller=Smaller(64, 85))
    for other in (Smaller(64, 90), Smaller(65, 85), None):
        with pytest.raises(UserError, match="holds an import of other images"):
            import_images(str(root), out, smaller=other)
