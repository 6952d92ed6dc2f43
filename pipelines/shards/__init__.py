"""The shard format: training sequences as Parquet rows with compressed native-type payloads."""

from pipelines.shards.codec import decode_sequence, encode_sequence, from_bytes, to_bytes
from pipelines.shards.manifest import (
    MANIFEST_NAME,
    NOT_LISTED,
    OTHER_BYTES,
    DamagedManifestError,
    harm_of,
    read_manifest,
    update_manifest,
    verify_shards,
)
from pipelines.shards.reader import ShardSet, open_shards, read_rows, read_shard, shard_for_rank, shuffled_rows
from pipelines.shards.writer import SHARD_SUFFIX, ShardInfo, write_shard

__all__ = [
    "MANIFEST_NAME",
    "NOT_LISTED",
    "OTHER_BYTES",
    "SHARD_SUFFIX",
    "DamagedManifestError",
    "ShardInfo",
    "ShardSet",
    "decode_sequence",
    "encode_sequence",
    "from_bytes",
    "harm_of",
    "open_shards",
    "read_manifest",
    "read_rows",
    "read_shard",
    "shard_for_rank",
    "shuffled_rows",
    "to_bytes",
    "update_manifest",
    "verify_shards",
    "write_shard",
]
