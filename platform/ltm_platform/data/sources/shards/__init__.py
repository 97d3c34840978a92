"""Images as Parquet shards: the format, how they are written, and how they are read."""

from ltm_platform.data.sources.shards.data_source import Shards, warn_unsealed
from ltm_platform.data.sources.shards.images import (
    ShardImages,
    misplaced,
)
from ltm_platform.data.sources.shards.layout import (
    FORMAT_VERSION,
    REPORT,
    UNFINISHED,
    Footer,
    Place,
    Record,
    holds_shards,
    list_split,
    read_footer,
    shard_name,
)
from ltm_platform.data.sources.shards.seal import PLACEHOLDER, seal_of, sealed
from ltm_platform.data.sources.shards.verify import verify_shard
from ltm_platform.data.sources.shards.writing import (
    SHARD_BYTES,
    ShardWriter,
    dataset_digest,
    write_shards,
)

__all__ = [
    "FORMAT_VERSION",
    "PLACEHOLDER",
    "REPORT",
    "SHARD_BYTES",
    "UNFINISHED",
    "Footer",
    "Place",
    "Record",
    "ShardImages",
    "ShardWriter",
    "Shards",
    "dataset_digest",
    "holds_shards",
    "list_split",
    "misplaced",
    "read_footer",
    "seal_of",
    "sealed",
    "shard_name",
    "verify_shard",
    "warn_unsealed",
    "write_shards",
]
