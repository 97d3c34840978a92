"""Copies of shards on a node: whole or absent, made once, and no more than fit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ltm_platform.data.cache import ShardCache
from ltm_platform.data.processes import start_fork_server
from ltm_platform.data.sources.shards import Record, ShardImages, write_shards
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier
    from pathlib import Path

IMAGES = list(range(40))


def write(folder: Path, content: int = 0) -> Path:
    """A split of several shards."""
    records = [Record(bytes([i, content]) * 100, i % 2, f"{i}") for i in IMAGES]
    return write_shards(folder, "train", records, ["a", "b"], shard_bytes=3000)


def copies(folder: Path) -> dict[str, bytes]:
    """What is there but for locks."""
    return {f.name: f.read_bytes() for f in folder.iterdir() if f.suffix != ".lock"}


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(tmp_path / "disk", reserve=0)


def test_what_was_read_once_is_read_from_the_copy(tmp_path: Path, cache: ShardCache) -> None:
    split = write(tmp_path)
    shards = sorted(file.read_bytes() for file in split.iterdir())
    assert len(shards) > 1
    expected = ShardImages(split).read(IMAGES)
    source = ShardImages(split, cache)
    assert not cache.folder.exists(), "opening copies nothing"
    assert source.read(IMAGES) == expected
    assert sorted(copies(cache.folder).values()) == shards
    for file in split.iterdir():
        file.unlink()
    assert source.read(IMAGES) == expected
    assert pickle.loads(pickle.dumps(source)).read(IMAGES) == expected


def test_only_what_is_read_is_copied(tmp_path: Path, cache: ShardCache) -> None:
    source = ShardImages(write(tmp_path), cache)
    source.read([0, 1])
    assert len(copies(cache.folder)) == 1


def _read(split: Path, cache: ShardCache, begin: Barrier) -> list[int]:
    source = ShardImages(split, cache)
    begin.wait()
    assert len(source.read(IMAGES)) == len(IMAGES)
    return sorted(path.stat().st_ino for path in cache.folder.glob("*.parquet"))


def test_processes_that_want_a_shard_at_once_share_one_copy(
    tmp_path: Path, cache: ShardCache
) -> None:
    split = write(tmp_path)
    # Not forked from here: this process has threads of other tests, whose locks a fork would keep.
    start_fork_server()  # with its imports, which all that comes from it have
    context = multiprocessing.get_context("forkserver")
    with context.Manager() as manager, ProcessPoolExecutor(4, context) as pool:
        begin = manager.Barrier(4)
        seen = list(pool.map(_read, [split] * 4, [cache] * 4, [begin] * 4))
    # A second copy would be another file of that name.
    assert seen == [seen[0]] * 4
    assert len(copies(cache.folder)) == len(list(split.iterdir()))


@pytest.mark.parametrize("left", [".part", ".parquet"])
def test_what_a_killed_process_left_is_no_copy(
    tmp_path: Path, cache: ShardCache, left: str
) -> None:
    split = write(tmp_path)
    expected = ShardImages(split, cache).read(IMAGES)
    whole = copies(cache.folder)
    for name, content in whole.items():
        (cache.folder / name).unlink()
        (cache.folder / name).with_suffix(left).write_bytes(content[:-1])
    assert ShardImages(split, cache).read(IMAGES) == expected
    assert copies(cache.folder) == whole


def test_a_shard_that_was_written_anew_is_copied_anew(tmp_path: Path, cache: ShardCache) -> None:
    split = write(tmp_path / "data")
    ShardImages(split, cache).read(IMAGES)
    shutil.rmtree(split)
    again = ShardImages(write(tmp_path / "data", content=1), cache)
    assert again.read([0]) == [(bytes([0, 1]) * 100, 0)]


def test_what_does_not_fit_is_read_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split, full = write(tmp_path), ShardCache(tmp_path / "full", reserve=2**60)
    source = ShardImages(split, full)
    assert source.read(IMAGES) == ShardImages(split).read(IMAGES)
    assert copies(full.folder) == {}
    assert [record.message for record in caplog.records] == [
        f"data.cache {full.folder} is full: shards without room there are read where they are"
    ]


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = ShardImages(write(tmp_path), ShardCache(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="which cannot be written to on this node: Not a directory"):
        source.read([0])


def test_a_shard_that_went_away_is_told(tmp_path: Path, cache: ShardCache) -> None:
    split = write(tmp_path)
    source = ShardImages(split, cache)
    (gone, *_) = sorted(split.iterdir())
    os.unlink(gone)
    with pytest.raises(UserError, match=f"{gone.name} cannot be read"):
        source.read([0])


def test_a_shard_is_verified_when_it_is_copied(tmp_path: Path, cache: ShardCache) -> None:
    split = write(tmp_path)
    source = ShardImages(split, cache)
    first = sorted(split.iterdir())[0]
    content = bytearray(first.read_bytes())
    content[content.index(b"PAR1") + 10] ^= 1  # before the first image, which is whole
    first.write_bytes(content)
    with pytest.raises(UserError, match=f"{first} is damaged: it has another checksum"):
        source.read([0])
    assert not copies(cache.folder)


def test_a_copy_that_changed_is_named(tmp_path: Path, cache: ShardCache) -> None:
    source = ShardImages(write(tmp_path), cache)
    source.read([0])
    (copy,) = (path for path in cache.folder.iterdir() if path.suffix == ".parquet")
    content = copy.read_bytes()
    copy.write_bytes(content.replace(bytes([0, 0]) * 100, bytes([9, 0]) * 100))
    with pytest.raises(UserError, match=f"{copy}, the copy of .* is damaged: image 0 in it"):
        source.read([0])
