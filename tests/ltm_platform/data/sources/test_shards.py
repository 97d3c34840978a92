from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ltm_platform.data.importing import import_images
from ltm_platform.data.inspection import check_data
from ltm_platform.data.sources.shards import Record, ShardImages, Shards, write_shards
from ltm_platform.errors import UserError

from ....version_0_1 import unpack_shards

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = ["ant", "bee", "cat"]


def records(count: int = 100) -> list[Record]:
    return [Record(bytes([i]) * (50 + i), i % 3, f"k/{i}.png") for i in range(count)]


def write(folder: Path, items: list[Record] | None = None) -> Path:
    return write_shards(
        folder, "train", items or records(), CLASSES, shard_bytes=4000, group_bytes=900
    )


def test_reads_back_what_was_written_in_any_order(tmp_path: Path) -> None:
    source = ShardImages(write(tmp_path))
    wanted = [99, 0, 41, 41, 7, 98]
    assert source.read(wanted) == [records()[i][:2] for i in wanted]
    assert len(source) == 100
    assert source.classes == tuple(CLASSES)
    assert source.counts == (34, 33, 33)
    assert source.labels.tolist() == [i % 3 for i in range(100)]
    assert "'k/41.png'" in source.locate(41)


def test_row_groups_stay_small_and_shards_are_cut(tmp_path: Path) -> None:
    files = sorted(write(tmp_path).iterdir())
    assert len(files) > 1
    for file in files:
        footer = pq.read_metadata(file)
        for group in range(footer.num_row_groups):
            images = pq.ParquetFile(file).read_row_group(group)["image"].to_pylist()
            assert sum(map(len, images)) <= 900


def test_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    def digest(folder: Path) -> list[tuple[str, str]]:
        files = sorted(folder.iterdir())
        return [(f.name, hashlib.sha256(f.read_bytes()).hexdigest()) for f in files]

    assert digest(write(tmp_path / "a")) == digest(write(tmp_path / "b"))


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Record]:
        yield from records()
        raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write_shards(tmp_path, "train", broken(), CLASSES, shard_bytes=4000)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once_both_succeed(tmp_path: Path) -> None:
    both_are_writing = Barrier(2)

    def slow() -> Iterator[Record]:
        yield records()[0]
        both_are_writing.wait(timeout=300)
        yield from records()[1:]

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(write_shards, tmp_path, "train", slow(), CLASSES) for _ in range(2)]
        targets = {job.result() for job in jobs}
    assert [*tmp_path.iterdir()] == [*targets]
    assert len(ShardImages(targets.pop())) == 100


def test_other_content_is_never_overwritten(tmp_path: Path) -> None:
    target = write(tmp_path)
    with pytest.raises(UserError, match="already holds other images"):
        write(tmp_path, records(50))
    assert len(ShardImages(target)) == 100
    assert list(tmp_path.iterdir()) == [target]


def test_records_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="label 3 of 'k' is not a class"):
        write(tmp_path, [Record(b"x", 3, "k")])
    with pytest.raises(ValueError, match="no records"):
        write_shards(tmp_path, "train", [], CLASSES)


def test_a_missing_a_damaged_and_a_foreign_shard_are_named(tmp_path: Path) -> None:
    missing = sorted(write(tmp_path / "missing").iterdir())[1]
    missing.unlink()
    with pytest.raises(UserError, match=f"{missing.name} is missing"):
        ShardImages(missing.parent)

    damaged = sorted(write(tmp_path / "damaged").iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(UserError, match=f"{damaged.name} is damaged"):
        ShardImages(damaged.parent)

    foreign = tmp_path / "foreign" / "00000-of-00001.parquet"
    foreign.parent.mkdir()
    pq.write_table(pa.table({"image": [b"x"], "label": [0]}), foreign)
    with pytest.raises(UserError, match="not a shard that ltm-platform wrote"):
        ShardImages(foreign.parent)


def test_a_shard_cut_short_while_training_is_named(tmp_path: Path) -> None:
    source = ShardImages(write(tmp_path))
    last = sorted(Path(source.folder.path).iterdir())[-1]
    os.truncate(last, 100)
    with pytest.raises(UserError, match=f"{last.name} is damaged"):
        source.read([99])


def test_any_reader_of_parquet_finds_the_images(tmp_path: Path) -> None:
    found = pq.read_table(write(tmp_path)).to_pylist()
    assert [Record(**row) for row in found] == records()


def test_a_shard_that_vanishes_while_training_is_named(tmp_path: Path) -> None:
    source = ShardImages(write(tmp_path))
    last = sorted(Path(source.folder.path).iterdir())[-1]
    last.unlink()
    with pytest.raises(UserError, match=f"{last.name} cannot be read"):
        source.read([99])


def test_travels_to_another_process_after_use(tmp_path: Path) -> None:
    source = ShardImages(write(tmp_path))
    source.read(np.arange(100))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.read([5]) == source.read([5])
    assert copy.labels.tolist() == source.labels.tolist()


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 4
    file.write_bytes(content)


def test_an_image_that_changed_on_disk_ends_training_with_the_name_of_its_shard(
    tmp_path: Path,
) -> None:
    source = ShardImages(write(tmp_path))
    files = sorted(Path(source.folder.path).iterdir())
    image = records()[1].image
    flip(files[0], files[0].read_bytes().index(image) + 20)
    assert source.read([0, 2]) == [records()[i][:2] for i in (0, 2)]
    with pytest.raises(UserError, match=f"{files[0].name} is damaged: image 1 in it has another"):
        source.read([2, 1])
    # Its name in messages is no reason to fail.
    assert "'k/1.png'" in source.locate(1)
    flip(files[0], files[0].read_bytes().index(b"k/1.png"))
    assert str(files[0]) in source.locate(1)


def test_a_footer_changed_on_disk_is_named_before_anything_is_read(tmp_path: Path) -> None:
    split = write(tmp_path)
    last = sorted(split.iterdir())[-1]
    flip(last, last.read_bytes().index(b'"counts"') + 11)
    with pytest.raises(UserError, match=f"{last.name} is damaged: it has another checksum"):
        ShardImages(split)


def test_shards_of_version_0_1_are_read_with_a_warning_and_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = unpack_shards(tmp_path)
    train, val = Shards(str(old), tmp_path).open(val_fraction=0.5)
    assert (len(train), len(val)) == (24, 12)
    (warning,) = caplog.messages
    assert f"'ltm-platform data import {old} FOLDER' writes them anew" in warning
    assert check_data(str(old), decode_all=True).problems == ()

    import_images(str(old), str(tmp_path / "new"))
    caplog.clear()
    new = Shards(str(tmp_path / "new"), tmp_path).open(val_fraction=0.5)
    assert not caplog.messages
    for one, other in zip((train, val), new, strict=True):
        assert one.classes == other.classes
        assert one.read(range(len(one))) == other.read(range(len(other)))
        assert one.locate(3).partition(" of ")[0] == other.locate(3).partition(" of ")[0]
    with pytest.raises(UserError, match="holds shards already"):
        import_images(str(tmp_path / "new"), str(tmp_path / "newer"))


def test_damaged_shards_of_version_0_1_are_not_written_anew(tmp_path: Path) -> None:
    old = unpack_shards(tmp_path)
    file = old / "val/00000-of-00001.parquet"
    flip(file, 5000)
    with pytest.raises(UserError, match=f"{file} has another checksum than its content"):
        import_images(str(old), str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_parts_of_version_0_1_exchanged_are_named(tmp_path: Path) -> None:
    old = unpack_shards(tmp_path)
    shutil.copy(old / "train/00000-of-00001.parquet", old / "val/00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"was written as train/00000-of-00001\.parquet"):
        Shards(str(old), tmp_path).open(val_fraction=0.5)
