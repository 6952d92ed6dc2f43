"""The manifest: an index of the committed shards, never the truth about them.

The shards on storage are the truth. The manifest spares a reader their footers and carries their checksums; it is made
anew from what is there, reusing what it already knew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.shards.reader import open_shards
from pipelines.shards.writer import SHARD_SUFFIX, ShardInfo
from pipelines.storage import Storage

logger = logging.getLogger(__name__)
MANIFEST_NAME = "manifest.parquet"
MISSING = "missing"
NOT_LISTED = "not listed"
OTHER_BYTES = "checksum differs"
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


class DamagedManifestError(ValueError):
    """The file of that name is no manifest; one line that names it."""


def read_manifest(storage: Storage, prefix: str = "") -> list[ShardInfo]:
    """The shards that the manifest of a folder lists; empty when there is no manifest.

    Raises:
        DamagedManifestError: what is there cannot be read as one.
    """
    path = _path(prefix)
    if not storage.exists(path):
        return []
    content = storage.read_bytes(path)
    try:
        # Of damaged pages Arrow says OSError, though the bytes are in memory.
        rows = pq.read_table(pa.BufferReader(content)).select(_SCHEMA.names).cast(_SCHEMA).to_pylist()
        return [
            ShardInfo(row["shard"], row["sequences"], tuple(row["sources"]), row["frames"], row["bytes"], row["sha256"])
            for row in rows
        ]
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise DamagedManifestError(
            f"{storage.uri(path)} is damaged ({said}); run `aef ingest`, which makes it again from the shards"
        ) from error


def update_manifest(storage: Storage, prefix: str = "", known: Iterable[ShardInfo] = ()) -> list[ShardInfo]:
    """Make the manifest say what is on storage now, and return it.

    Of a damaged one nothing is taken over. What is no shard is left out, with a warning: it may be of an earlier set,
    and whoever wants to read it is told.

    Args:
        storage: where.
        prefix: folder of the shards.
        known: shards just written, whose checksums are known; others are read once.
    """
    on_storage = storage.sizes(prefix, SHARD_SUFFIX)
    try:
        listed = read_manifest(storage, prefix)
    except DamagedManifestError:
        listed = []
    by_path = {info.path: info for info in [*listed, *known] if info.sha256}
    by_path = {path: info for path, info in by_path.items() if on_storage.get(path) == info.size}
    for path in on_storage.keys() - by_path.keys():
        try:
            (info,) = open_shards(storage, [path]).shards
        except ValueError as error:
            logger.warning("%s; it is left out of the manifest", error)
            continue
        by_path[path] = replace(info, sha256=storage.sha256(path))
    shards = [by_path[path] for path in on_storage if path in by_path]
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


def verify_shards(storage: Storage, prefix: str, listed: Iterable[ShardInfo]) -> dict[str, str]:
    """What is wrong, by path, with the shards of a folder that are missing, not listed, or not the bytes of the list.

    Of one whose size is another, the bytes are not read.
    """
    by_path = {info.path: info for info in listed}
    there = storage.sizes(prefix, SHARD_SUFFIX)
    problems = {}
    for path in sorted(by_path.keys() | there.keys()):
        if path not in by_path:
            problems[path] = NOT_LISTED
        elif harm := harm_of(by_path[path], there):
            problems[path] = harm
        elif storage.sha256(path) != by_path[path].sha256:
            problems[path] = OTHER_BYTES
    return problems


def harm_of(shard: ShardInfo, sizes: Mapping[str, int]) -> str:
    """What a listing of sizes by path shows to be wrong with a shard; empty where it shows nothing."""
    if shard.path not in sizes:
        return MISSING
    size = sizes[shard.path]
    return "" if size == shard.size else f"damaged ({size} bytes, not {shard.size})"


def _path(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/{MANIFEST_NAME}" if prefix else MANIFEST_NAME
