"""Images in an object store: a real S3 protocol over HTTP, served by this process."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import torch

from ltm_platform.data import ImageSet, open_dataset
from ltm_platform.data.cache import ShardCache
from ltm_platform.data.importing import import_images
from ltm_platform.data.inspection import check_data
from ltm_platform.data.loader import Loader
from ltm_platform.data.pixels.exact import ExactEvaluation
from ltm_platform.storage.path import storage_path

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Tree

HALF = (0.5, 0.5, 0.5)


def files(where: str | Path) -> dict[str, bytes]:
    root = storage_path(where)
    return {name: (root / name).read() for name, _ in root.files(recursive=True)}


def test_shards_in_a_store_are_those_of_a_disk_and_train_the_same(
    bucket: str, tree: Tree, tmp_path: Path
) -> None:
    tree.add(*(f"{pet}/{number}.png" for pet in ("cat", "dog") for number in range(12)))
    originals = f"{bucket}/originals"
    for name, content in files(tree.root).items():
        (storage_path(originals) / name).write(content)
    options = {"shard_bytes": 1500, "processes": 2}
    import_images(str(tree.root), str(tmp_path / "shards"), **options)
    import_images(originals, f"{bucket}/shards", **options)
    assert files(f"{bucket}/shards") == files(tmp_path / "shards")
    assert len(files(tmp_path / "shards")) >= 4
    assert check_data(f"{bucket}/shards").images == 24

    def opened(path: str, copies: ShardCache | None = None) -> ImageSet:
        return open_dataset(path, cache=tmp_path, val_fraction=0.2, copies=copies).train

    def first_epoch(path: str) -> list[torch.Tensor]:
        source = opened(path)
        loader = Loader(
            source,
            ExactEvaluation(8),
            micro_batch=4,
            accumulation=1,
            rank=0,
            world_size=1,
            seed=0,
            workers=1,
        )
        with closing(loader):
            return [x for batch in loader.epoch(0) for x in (batch.images, batch.labels)]

    far, near = first_epoch(f"{bucket}/shards"), first_epoch(str(tmp_path / "shards"))
    assert len(far) >= 8
    assert all(torch.equal(x, y) for x, y in zip(far, near, strict=True))
    copies = ShardCache(tmp_path / "disk", reserve=0)
    source = opened(f"{bucket}/shards", copies)
    every = range(len(source))
    assert source.read(every) == opened(str(tmp_path / "shards")).read(every)
    train = [name for name in files(tmp_path / "shards") if name.startswith("train/")]
    assert len(list(copies.folder.glob("*.parquet"))) == len(train)


def test_a_file_below_an_address_with_options_is_named_as_it_can_be_opened(bucket: str) -> None:
    image = storage_path(f"{bucket}/cats?region=us-east-1") / "1.png"
    image.write(b"image")
    assert str(image) == f"{bucket}/cats/1.png?region=us-east-1"
    assert storage_path(str(image)).read() == b"image"
