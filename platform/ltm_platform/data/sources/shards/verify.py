"""A shard is read whole and compared with its footer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from ltm_platform.data.sources.shards.images import data_checksum
from ltm_platform.data.sources.shards.layout import SCHEMA, Record, update_checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ltm_platform.data.sources.shards.layout import Footer
    from ltm_platform.storage.path import StoragePath


def verify_shard(
    file: StoragePath, footer: Footer, visit: Callable[[int, Record], None] = lambda _, __: None
) -> list[str]:
    """What is wrong with the shard, in sentences: checksum, columns, labels, counts, index.

    visit: is called with every image and its number.
    """
    try:
        return list(_problems(file, footer, visit))
    # Whatever a damaged page makes pyarrow trip over.
    except Exception as error:
        return [f"{file} cannot be read: {' '.join(str(error).split())[:300]}."]


def _problems(
    file: StoragePath, footer: Footer, visit: Callable[[int, Record], None]
) -> Iterator[str]:
    with file.filesystem.open_input_file(file.path) as content:
        if footer.place and data_checksum(content, footer.data_bytes) != footer.checksum:
            yield f"{file} has another checksum than its content."
            return
        with pq.ParquetFile(file.path, filesystem=file.filesystem) as shard:
            if not shard.schema_arrow.equals(SCHEMA):
                yield f"{file} has other columns than a shard."
                return
            counts = [0] * len(footer.classes)
            digest = hashlib.sha256()
            index = footer.index[:3].T.tolist()
            misplaced = shard.metadata.num_rows != len(index)
            for number, record in enumerate(_records(shard)):
                update_checksum(digest, record)
                if not 0 <= record.label < len(counts):
                    yield (
                        f"image {record.key!r} of {file} has label {record.label}, "
                        f"but there are {len(counts)} classes."
                    )
                    return
                counts[record.label] += 1
                visit(number, record)
                if not misplaced:
                    offset, size, label = index[number]
                    misplaced = (size, label) != (len(record.image), record.label)
                    misplaced = misplaced or content.read_at(size, offset) != record.image
    if not footer.place and digest.hexdigest() != footer.checksum:
        yield f"{file} has another checksum than its content."
    elif misplaced:
        yield f"{file} has an index that does not fit its images."
    if tuple(counts) != footer.counts:
        yield f"{file} holds other numbers of images than it says."


def _records(shard: pq.ParquetFile) -> Iterator[Record]:
    for number in range(shard.num_row_groups):
        for row in shard.read_row_group(number).to_pylist():
            yield Record(**row)
