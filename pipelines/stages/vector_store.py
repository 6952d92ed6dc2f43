"""Vectors by key on storage, in parts of sorted keys: a look-up reads no more than what lies around the keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.storage import Storage

# 768 kB of vectors of 384 numbers: what a look-up holds at once.
GROUP_ROWS = 512
_NAMED = 16  # characters of the first and the last key in the name of a part


class VectorStore:
    """Vectors of one length by text keys; parts are added, never changed."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self.storage, self.folder = storage, folder

    def known(self, keys: Iterable[str]) -> set[str]:
        """Those of some keys that have a vector."""
        wanted = set(keys)
        found: set[str] = set()
        for path in self._parts():
            with self.storage.open(path) as file:
                found.update(wanted.intersection(pq.read_table(file, columns=["key"])["key"].to_pylist()))
        return found

    def add(self, keys: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Write a part.

        Args:
            keys: sorted, none of them here yet.
            vectors: ``(K, T)``.
        """
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        buffer = BytesIO()
        pq.write_table(pa.table({"key": pa.array(keys), "vector": column}), buffer, row_group_size=GROUP_ROWS)
        path = f"{self.folder}/{keys[0][:_NAMED]}-{keys[-1][:_NAMED]}.parquet"
        self.storage.write_bytes_atomic(path, buffer.getvalue())

    def look_up(self, keys: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors of those keys that have one."""
        wanted = set(keys)
        found: dict[str, NDArray[np.float32]] = {}
        for path in self._parts():
            first, last = path.rsplit("/", 1)[1].removesuffix(".parquet").split("-")
            if here := {key for key in wanted if first <= key[:_NAMED] <= last}:
                with self.storage.open(path) as file:
                    for group in _groups_around(part := pq.ParquetFile(file), here):
                        found |= _vectors(part.read_row_group(group), here)
        return found

    def _parts(self) -> list[str]:
        return self.storage.list(self.folder, ".parquet")


def _groups_around(part: pq.ParquetFile, keys: set[str]) -> list[int]:
    """Row groups between whose first and last key one of some keys lies."""
    groups = []
    for index in range(part.metadata.num_row_groups):
        said = part.metadata.row_group(index).column(0).statistics
        if any(said.min <= key <= said.max for key in keys):
            groups.append(index)
    return groups


def _vectors(table: pa.Table, keys: set[str]) -> dict[str, NDArray[np.float32]]:
    column = table["vector"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), -1)
    rows = enumerate(table["key"].to_pylist())
    return {key: vectors[row].copy() for row, key in rows if key in keys}
