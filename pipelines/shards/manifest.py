"""The manifest: an index of the committed shards, never the truth about them.

The shards on storage are the truth. The manifest spares a reader their footers and carries their checksums; it is made
anew from what is there, reusing what it already knew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards.reader import open_shards
from pipelines.shards.writer import SHARD_SUFFIX, ShardInfo
from pipelines.storage import Storage

MANIFEST = "manifest.parquet"
_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("sequences", pa.int64()),
        ("sources", pa.list_(pa.string())),
        ("frames", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
    ]
)


def read_manifest(storage: Storage, prefix: str = "") -> list[ShardInfo]:
    """The shards that the manifest of a folder lists; empty when there is no manifest."""
    path = _path(prefix)
    if not storage.exists(path):
        return []
    table = pq.read_table(pa.BufferReader(storage.read_bytes(path)))
    return [
        ShardInfo(row["shard"], row["sequences"], tuple(row["sources"]), row["frames"], row["bytes"], row["sha256"])
        for row in table.to_pylist()
    ]


def update_manifest(storage: Storage, prefix: str = "", known: Iterable[ShardInfo] = ()) -> list[ShardInfo]:
    """Make the manifest say what is on storage now, and return it.

    Args:
        storage: where.
        prefix: folder of the shards.
        known: shards just written, whose checksums are known; others are read once.
    """
    on_storage = dict.fromkeys(storage.list(prefix, SHARD_SUFFIX))
    by_path = {info.path: info for info in [*read_manifest(storage, prefix), *known] if info.sha256}
    by_path = {
        path: by_path[path] for path in on_storage if path in by_path and by_path[path].size == storage.size(path)
    }
    missing = [path for path in on_storage if path not in by_path]
    for info in open_shards(storage, missing).shards:
        by_path[info.path] = replace(info, sha256=storage.sha256(info.path))
    shards = [by_path[path] for path in on_storage]
    rows = [
        {
            "shard": info.path,
            "sequences": info.sequences,
            "sources": list(info.sources),
            "frames": info.frames,
            "bytes": info.size,
            "sha256": info.sha256,
        }
        for info in shards
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), sink, compression="zstd")
    storage.write_bytes_atomic(_path(prefix), sink.getvalue().to_pybytes())
    return shards


def verify_shards(storage: Storage, prefix: str = "") -> list[str]:
    """One line for every shard that is missing, not listed, or not the bytes that the manifest says."""
    listed = {info.path: info for info in read_manifest(storage, prefix)}
    there = set(storage.list(prefix, SHARD_SUFFIX))
    problems = [f"{path}: listed but missing" for path in sorted(set(listed) - there)]
    problems += [f"{path}: not listed" for path in sorted(there - set(listed))]
    problems += [
        f"{path}: checksum differs"
        for path in sorted(there & set(listed))
        if storage.sha256(path) != listed[path].sha256
    ]
    return problems


def _path(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/{MANIFEST}" if prefix else MANIFEST
