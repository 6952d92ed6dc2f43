"""What one rank trains on: its share of every global batch, made by Ray Data tasks ahead of the optimiser.

Position p of chunk c of the global stream is a fixed sequence of a fixed epoch's shuffle, and everything drawn for it
(frames, periods, crops) comes from (seed, c, p): a rank of any world size takes its positions and gets the same
samples. A chunk is as many steps as crops are taken from one decoded sequence.
"""

from __future__ import annotations

import pickle
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
from pipelines.stages.session import quiet_ray_data
from pipelines.storage import Storage


class Feed:
    """Batches of one rank.

    Args:
        config: training settings, seed, root.
        pools: addresses of all training sequences; chunks take them from the pools in turn.
        rank, world: of this worker.
    """

    def __init__(self, config: Config, pools: list[list[Row]], rank: int, world: int) -> None:
        self.config, self.pools, self.rank, self.world = config, pools, rank, world

    def batches(self, first_step: int) -> Iterator[RawBatch]:
        """Batches of the steps from ``first_step`` to the end of the run."""
        train = self.config.train
        chunks = range(first_step // train.steps_per_draw, ceil(train.steps / train.steps_per_draw))
        quiet_ray_data()
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        items = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=max(len(chunks), 1))
        dataset = items.map_batches(
            ChunkMaker(self.config, self.pools, self.rank, self.world),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(size=train.data_workers),
        )
        stream = (pickle.loads(row["batch"]) for row in dataset.iter_rows())
        return islice(stream, first_step % train.steps_per_draw, None)


class ChunkMaker:
    """Decodes one chunk's sequences and cuts its batches, inside a Ray Data task."""

    def __init__(self, config: Config, pools: list[list[Row]], rank: int, world: int) -> None:
        self.config, self.pools, self.rank, self.world = config, pools, rank, world
        self.epochs: dict[tuple[int, int], list[Row]] = {}

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """Yields one row a step."""
        (chunk,) = batch["chunk"]
        for raw in self.make(int(chunk)):
            yield {"batch": [pickle.dumps(raw, protocol=5)]}

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
