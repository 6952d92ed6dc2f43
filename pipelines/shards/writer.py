"""Write a shard: Parquet, one row and one row group a sequence, the same bytes for the same sequences."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import pyarrow.parquet as pq

from pipelines.sequence import Sequence
from pipelines.shards.codec import DEFAULT_CODEC, columns_of, encode_sequence, record_batch, schema_for, source_of
from pipelines.storage import Storage

FORMAT = "aef-shard"
FORMAT_VERSION = 1
SHARD_SUFFIX = ".shard.parquet"
HELD_BYTES = 32 * 2**20  # of compressed sequences; what is more waits on disk


@dataclass(frozen=True, order=True)
class ShardInfo:
    """One committed shard.

    Attributes:
        path: relative to the storage root.
        sequences: rows.
        sources: names of the sources of which it holds anything, sorted.
        frames: raster frames over all sources and rows.
        size: bytes of the file.
        sha256: of the file; empty where only the footer has been read.
    """

    path: str
    sequences: int
    sources: tuple[str, ...]
    frames: int
    size: int
    sha256: str = ""


def write_shard(
    storage: Storage,
    path: str,
    sequences: Iterable[Sequence],
    statistics: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    *,
    codec: str = DEFAULT_CODEC,
    code_digest: str = "",
) -> ShardInfo:
    """Write sequences as one shard, whole or not at all.

    One compressed sequence is held in memory; those before it wait in a temporary file of this machine for what the
    shard's footer needs to know of all. Nothing that changes between runs (clock, host, order of dictionary keys)
    enters the file.

    Args:
        storage: where.
        path: relative to the root, ending in ``.shard.parquet``.
        sequences: taken in the order given.
        statistics: JSON-able statistics of these sequences, or a function that gives them once all have been taken
            (so that a generator can accumulate them on the way).
        codec: "lz4", "zstd" or "raw".
        code_digest: digest of the code that made the sequences.

    Raises:
        ValueError: for a wrong suffix, no sequences, or two sequences with one id.
    """
    if not path.endswith(SHARD_SUFFIX):
        raise ValueError(f"shard path {path!r} must end in {SHARD_SUFFIX}")
    with SpooledTemporaryFile(HELD_BYTES) as waiting:
        return _write(storage, path, sequences, waiting, statistics, codec, code_digest)


def _write(
    storage: Storage,
    path: str,
    sequences: Iterable[Sequence],
    waiting: IO[bytes],
    statistics: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None,
    codec: str,
    code_digest: str,
) -> ShardInfo:
    columns: set[str] = set()
    ids: set[str] = set()
    frames = 0
    for sequence in sequences:
        if sequence.sequence_id in ids:
            raise ValueError(f"shard {path}: sequence {sequence.sequence_id} comes twice")
        ids.add(sequence.sequence_id)
        columns |= columns_of(sequence)
        frames += sum(len(raster.time_ms) for raster in sequence.rasters.values())
        pickle.dump(encode_sequence(sequence, codec), waiting, protocol=5)
    if not ids:
        raise ValueError(f"shard {path} would hold no sequence; write none instead")
    facts = statistics() if callable(statistics) else (statistics or {})
    sources = tuple(sorted({source_of(column) for column in columns}))
    schema = schema_for(columns).with_metadata(
        {
            "format": FORMAT,
            "format_version": str(FORMAT_VERSION),
            "code_digest": code_digest,
            "frames": str(frames),
            "sources": json.dumps(sources),
            "statistics": json.dumps(facts, sort_keys=True),
        }
    )
    with storage.writer(path) as file:
        # Payloads are compressed already and unique, so Parquet's own codecs and dictionaries only cost time.
        options: dict[str, Any] = {"compression": "NONE", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(file, schema, **options) as writer:
            waiting.seek(0)
            for _ in ids:
                writer.write_batch(record_batch(pickle.load(waiting), schema), row_group_size=1)
    assert file.written is not None
    return ShardInfo(path, len(ids), sources, frames, file.written.size, file.written.sha256)
