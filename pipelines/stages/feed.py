"""What one rank trains on: its share of every global batch, made by Ray tasks ahead of the optimiser.

Position p of chunk c of the global stream is a fixed sequence of a fixed epoch's shuffle, and everything drawn for it
(frames, periods, crops) comes from (seed, c, p): a rank takes its positions, and the samples are the same in any world.
A chunk is as many steps as crops are taken from one decoded sequence.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pipelines.config import Config
from pipelines.shards import read_rows
from pipelines.shards.reader import Row, shuffled_rows
from pipelines.stages.batches import Drawn, RawBatch, collate, draw_for
from pipelines.storage import Storage


class Feed:
    """Batches of one rank.

    Plain tasks, a few chunks ahead: a Ray Data pipeline driven from the training process shares its interpreter, and
    its scheduling loop took more of a core than the optimiser (docs/decisions.md).

    Args:
        config: training settings, seed, root.
        pools: addresses of all training sequences; chunks take them from the pools in turn.
        rank, world: of this worker.
    """

    def __init__(self, config: Config, pools: list[list[Row]], rank: int, world: int) -> None:
        self.config = config
        self.maker = ChunkMaker(config, pools, rank, world)

    def batches(self, first_step: int) -> Iterator[RawBatch]:
        """Batches of the steps from ``first_step`` to the end of the run."""
        train = self.config.train
        chunks = range(first_step // train.steps_per_draw, ceil(train.steps / train.steps_per_draw))
        stream = (batch for part in self._ahead(chunks) for batch in part)
        return islice(stream, first_step % train.steps_per_draw, None)

    def _ahead(self, chunks: range) -> Iterator[list[RawBatch]]:
        """Chunks in order, ``data_workers`` of them in the making while one is used."""
        maker = ray.put(self.maker)
        pending: deque[ray.ObjectRef] = deque()
        for chunk in chunks:
            pending.append(_make_chunk.remote(maker, chunk))
            if len(pending) > self.config.train.data_workers:
                yield ray.get(pending.popleft())
        while pending:
            yield ray.get(pending.popleft())


@ray.remote(num_cpus=1)
def _make_chunk(maker: ChunkMaker, chunk: int) -> list[RawBatch]:
    return list(maker.make(chunk))


class ChunkMaker:
    """Decodes one chunk's sequences and cuts its batches, inside a Ray task."""

    def __init__(self, config: Config, pools: list[list[Row]], rank: int, world: int) -> None:
        self.config, self.pools, self.rank, self.world = config, pools, rank, world
        self.epochs: dict[tuple[int, int], list[Row]] = {}

    def address(self, chunk: int, position: int) -> Row:
        """The sequence at a position of a chunk: pools in turn, each an endless stream of shuffled epochs."""
        turn, which = divmod(chunk, len(self.pools))
        pool = self.pools[which]
        epoch, offset = divmod(turn * self.config.train.batch + position, len(pool))
        key = (which, epoch)
        if key not in self.epochs:
            if len(self.epochs) >= 2 * len(self.pools):
                self.epochs.clear()
            self.epochs[key] = shuffled_rows(pool, self.config.seed, epoch)
        return self.epochs[key][offset]

    def make(self, chunk: int) -> Iterator[RawBatch]:
        """The batches of one chunk for this rank."""
        config = self.config
        positions = range(self.rank, config.train.batch, self.world)
        sources = {name: config.source(name) for name in config.sources}
        samples = []
        for position in positions:
            rng = np.random.default_rng([config.seed, chunk, position])
            row = self.address(chunk, position)
            drawn: list[Drawn] = []

            def choose(head: Any, rng: np.random.Generator = rng, drawn: list[Drawn] = drawn) -> dict[str, Any]:
                drawn.append(draw_for(head, sources, config.train, rng))
                return drawn[0].frames

            (sequence,) = read_rows(Storage(config.root), [row], frames=choose)
            samples.append((sequence, drawn[0], rng))
        for _ in range(config.train.steps_per_draw):
            yield collate(samples, sources, config.train)


def pools_of(table: pa.Table, same_period: bool) -> list[list[Row]]:
    """Addresses of the sequences of a shard set's metadata: all in one pool, or one pool a support period."""
    starts = table["start_ms"].to_pylist()
    rows = list(zip(table["path"].to_pylist(), table["row"].to_pylist(), strict=True))
    if not same_period:
        return [rows]
    return [[row for row, its in zip(rows, starts, strict=True) if its == start] for start in sorted(set(starts))]
