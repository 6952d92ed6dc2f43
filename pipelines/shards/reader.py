"""Read shards: what is there without touching pixels, sequences one at a time, and a global shuffled order."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Ordered
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.sequence import Sequence
from pipelines.shards.codec import HEAD_COLUMNS, PAYLOADS, decode_sequence, row_of, source_of
from pipelines.shards.writer import FORMAT, FORMAT_VERSION, SHARD_SUFFIX, ShardInfo
from pipelines.storage import Storage

FOOTER_THREADS = 16
OPEN_FILES = 32

Row = tuple[str, int]
"""A sequence's address: path of its shard, row within it."""
FrameChoice = Callable[[Sequence], Mapping[str, NDArray[np.integer]]]


@dataclass(frozen=True)
class ShardSet:
    """The shards under a folder, known by their footers.

    Attributes:
        storage: where they are.
        shards: sorted by path.
        statistics: per shard path, as written with it.
        code_digests: per shard path.
    """

    storage: Storage
    shards: tuple[ShardInfo, ...]
    statistics: dict[str, dict[str, Any]] = field(repr=False)
    code_digests: dict[str, str] = field(repr=False)

    @property
    def sequences(self) -> int:
        return sum(shard.sequences for shard in self.shards)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted({source for shard in self.shards for source in shard.sources}))

    @property
    def paths(self) -> list[str]:
        return [shard.path for shard in self.shards]

    def metadata(self) -> pa.Table:
        """One row per sequence: path, row, place, period, split and, per source, what there is; no pixels are read.

        Columns beside the head columns: ``path``, ``row``, and ``<source>.frames`` with the number of frames (raster),
        footprints (points) or texts.
        """
        with ThreadPoolExecutor(FOOTER_THREADS) as pool:
            parts = list(pool.map(lambda shard: _read_metadata(self.storage, shard), self.shards))
        rows = [row for part in parts for row in part]
        names = ["path", "row", *HEAD_COLUMNS, *(f"{source}.frames" for source in self.sources)]
        return pa.table({name: [row.get(name, 0) for row in rows] for name in names})

    def rows(self, split: str | None = None) -> list[Row]:
        """Addresses of all sequences, or of one split's, in order of path and row."""
        if split is None:
            return [(shard.path, row) for shard in self.shards for row in range(shard.sequences)]
        table = self.metadata()
        columns = (table[name].to_pylist() for name in ("path", "row", "split"))
        return [(path, row) for path, row, its_split in zip(*columns, strict=True) if its_split == split]

    def read(self, rows: Iterable[Row], sources: Iterable[str] | None = None) -> Iterator[Sequence]:
        """Sequences by address; see :func:`read_rows`."""
        return read_rows(self.storage, rows, sources)


def open_shards(storage: Storage | str, paths: str | Iterable[str] = "") -> ShardSet:
    """What shards there are, from their footers alone.

    Args:
        storage: the storage, or its root URI.
        paths: a folder below the root, or the shard paths themselves.

    Raises:
        ValueError: naming a file that is not a shard of this format version.
    """
    storage = storage if isinstance(storage, Storage) else Storage(storage)
    names = storage.list(paths, SHARD_SUFFIX) if isinstance(paths, str) else sorted(paths)
    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        found = list(pool.map(lambda path: _read_footer(storage, path), names))
    return ShardSet(
        storage,
        tuple(info for info, _, _ in found),
        {info.path: statistics for info, statistics, _ in found},
        {info.path: digest for info, _, digest in found},
    )


def read_shard(
    storage: Storage | str,
    path: str,
    rows: Iterable[int] | None = None,
    sources: Iterable[str] | None = None,
    frames: FrameChoice | None = None,
) -> Iterator[Sequence]:
    """The sequences of one shard, one row group in memory at a time.

    Args:
        storage: the storage, or its root URI.
        path: of the shard.
        rows: which, in the order wanted; all by default.
        sources: read and decode only these; see :func:`decode_sequence`.
        frames: given a sequence with times, geometry and weights but no pixels, chooses the frames to decode of each
            source.
    """
    storage = storage if isinstance(storage, Storage) else Storage(storage)
    with storage.open(path) as file, closing(_open(file, storage, path)) as parquet:
        wanted = range(parquet.num_row_groups) if rows is None else rows
        columns = _columns(parquet.schema_arrow, sources)
        for row in wanted:
            yield _read_row(parquet, row, columns, sources, frames)


def read_rows(
    storage: Storage | str,
    rows: Iterable[Row],
    sources: Iterable[str] | None = None,
    frames: FrameChoice | None = None,
) -> Iterator[Sequence]:
    """Sequences by address in the order given, with a bounded number of files kept open."""
    storage = storage if isinstance(storage, Storage) else Storage(storage)
    sources = None if sources is None else list(sources)
    opened: OrderedDict[str, tuple[Any, pq.ParquetFile, list[str]]] = OrderedDict()
    try:
        for path, row in rows:
            if path not in opened:
                if len(opened) >= OPEN_FILES:
                    _close(opened.popitem(last=False)[1])
                file = storage.open(path)
                parquet = _open(file, storage, path)
                opened[path] = (file, parquet, _columns(parquet.schema_arrow, sources))
            opened.move_to_end(path)
            _, parquet, columns = opened[path]
            yield _read_row(parquet, row, columns, sources, frames)
    finally:
        for entry in opened.values():
            _close(entry)


def shuffled_rows(shards: Iterable[ShardInfo] | Iterable[Row], seed: int, epoch: int) -> list[Row]:
    """All rows in one global random order that depends on nothing but the rows, the seed and the epoch.

    Args:
        shards: shards, or row addresses (of one split, say); their order does not matter.
        seed: of the run.
        epoch: each has its own order.
    """
    rows: list[Row] = []
    for item in shards:
        rows.extend((item.path, row) for row in range(item.sequences)) if isinstance(item, ShardInfo) else rows.append(
            item
        )
    rows.sort()
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(len(rows))
    return [rows[index] for index in order]


def shard_for_rank(order: Ordered[Row], rank: int, world: int, *, even: bool = False) -> list[Row]:
    """One worker's part of a global order.

    Worker ``rank`` takes elements ``rank, rank + world, ...``, so that step k of all workers together covers
    ``order[k * world : (k + 1) * world]`` and interleaving the parts gives the global order back for any ``world``.

    Args:
        order: from :func:`shuffled_rows`.
        rank: of this worker, counted from 0.
        world: number of workers.
        even: leave out the last ``len(order) % world`` elements so that all workers have equally many.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not among {world} workers")
    end = len(order) // world * world if even else len(order)
    return list(order[rank:end:world])


# -- inside ----------------------------------------------------------------------------------------------------------


def _open(file: Any, storage: Storage, path: str) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{storage.uri(path)} is not a shard ({error}); delete it and ingest again") from error
    metadata = parquet.schema_arrow.metadata or {}
    if metadata.get(b"format") != FORMAT.encode():
        raise ValueError(f"{storage.uri(path)} is not a shard; delete it and ingest again")
    version = metadata[b"format_version"].decode()
    if version != str(FORMAT_VERSION):
        raise ValueError(
            f"{storage.uri(path)} has shard format version {version}, this code reads {FORMAT_VERSION}; ingest again"
        )
    return parquet


def _close(entry: tuple[Any, pq.ParquetFile, list[str]]) -> None:
    file, parquet, _ = entry
    parquet.close()
    file.close()


def _columns(schema: pa.Schema, sources: Iterable[str] | None) -> list[str]:
    wanted = None if sources is None else set(sources)
    return [name for name in schema.names if name in HEAD_COLUMNS or wanted is None or source_of(name) in wanted]


def _read_row(
    parquet: pq.ParquetFile,
    row: int,
    columns: list[str],
    sources: Iterable[str] | None,
    frames: FrameChoice | None,
) -> Sequence:
    cells = row_of(parquet.read_row_group(row, columns=columns, use_threads=False))
    if frames is None:
        return decode_sequence(cells, sources)
    bare = {
        name: {**cell, "bands": 0, "scale": [], "offset": []} if isinstance(cell, dict) and "frames" in cell else cell
        for name, cell in cells.items()
    }
    return decode_sequence(cells, sources, frames(decode_sequence(bare, sources)))


def _read_footer(storage: Storage, path: str) -> tuple[ShardInfo, dict[str, Any], str]:
    with storage.open(path) as file, closing(_open(file, storage, path)) as parquet:
        metadata = parquet.schema_arrow.metadata
        info = ShardInfo(
            path,
            parquet.metadata.num_rows,
            tuple(json.loads(metadata[b"sources"])),
            int(metadata[b"frames"]),
            storage.size(path),
        )
        return info, json.loads(metadata[b"statistics"]), metadata[b"code_digest"].decode()


def _read_metadata(storage: Storage, shard: ShardInfo) -> list[dict[str, Any]]:
    with storage.open(shard.path) as file, closing(_open(file, storage, shard.path)) as parquet:
        wanted = list(HEAD_COLUMNS)
        for name in parquet.schema_arrow.names:
            if name not in HEAD_COLUMNS:
                leaves = {leaf.name for leaf in parquet.schema_arrow.field(name).type} - set(PAYLOADS)
                wanted.append(f"{name}.{'frames' if 'frames' in leaves else 'row'}")
        rows: list[dict[str, Any]] = parquet.read(columns=wanted, use_threads=False).to_pylist()
    for index, row in enumerate(rows):
        row |= {"path": shard.path, "row": index}
        for name in [name for name in row if isinstance(row[name], dict)]:
            cell = row.pop(name)
            row[f"{source_of(name)}.frames"] = cell["frames"] if "frames" in cell else len(cell["row"] or ())
        for name in [name for name, value in row.items() if value is None]:
            del row[name]
    return rows
