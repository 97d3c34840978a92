"""Images as Parquet shards: the format, how they are written, and how they are read."""

from ltm_platform.data.sources.shards.data_source import Shards
from ltm_platform.data.sources.shards.images import ShardImages
from ltm_platform.data.sources.shards.layout import (
    FORMAT_VERSION,
    SCHEMA,
    UNFINISHED,
    Record,
    holds_shards,
    read_footer,
    shard_name,
    unpacked_index,
    update_checksum,
)
from ltm_platform.data.sources.shards.writing import SHARD_BYTES, ShardWriter, write_shards

__all__ = [
    "FORMAT_VERSION",
    "SCHEMA",
    "SHARD_BYTES",
    "UNFINISHED",
    "Record",
    "ShardImages",
    "ShardWriter",
    "Shards",
    "holds_shards",
    "read_footer",
    "shard_name",
    "unpacked_index",
    "update_checksum",
    "write_shards",
]
