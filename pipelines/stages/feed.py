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
        rows: addresses of all training sequences.
        rank, world: of this worker.
    """

    def __init__(self, config: Config, rows: list[Row], rank: int, world: int) -> None:
        self.config, self.rows, self.rank, self.world = config, rows, rank, world

    def batches(self, first_step: int) -> Iterator[RawBatch]:
        """Batches of the steps from ``first_step`` to the end of the run."""
        train = self.config.train
        chunks = range(first_step // train.steps_per_draw, ceil(train.steps / train.steps_per_draw))
        quiet_ray_data()
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        items = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=max(len(chunks), 1))
        dataset = items.map_batches(
            ChunkMaker(self.config, self.rows, self.rank, self.world),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(size=train.data_workers),
        )
        stream = (pickle.loads(row["batch"]) for row in dataset.iter_rows())
        return islice(stream, first_step % train.steps_per_draw, None)


class ChunkMaker:
    """Decodes one chunk's sequences and cuts its batches, inside a Ray Data task."""

    def __init__(self, config: Config, rows: list[Row], rank: int, world: int) -> None:
        self.config, self.rows, self.rank, self.world = config, rows, rank, world

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """Yields one row a step."""
        (chunk,) = batch["chunk"]
        for raw in self.make(int(chunk)):
            yield {"batch": [pickle.dumps(raw, protocol=5)]}

    def make(self, chunk: int) -> Iterator[RawBatch]:
        """The batches of one chunk for this rank."""
        config = self.config
        positions = range(self.rank, config.train.batch, self.world)
        sources = {name: config.source(name) for name in config.sources}
        samples = []
        for position in positions:
            rng = np.random.default_rng([config.seed, chunk, position])
            row = stream_row(self.rows, config.seed, chunk * config.train.batch + position)
            drawn: list[Drawn] = []

            def choose(head: Any, rng: np.random.Generator = rng, drawn: list[Drawn] = drawn) -> dict[str, Any]:
                drawn.append(draw_for(head, sources, config.train, rng))
                return drawn[0].frames

            (sequence,) = read_rows(Storage(config.root), [row], frames=choose)
            samples.append((sequence, drawn[0], rng))
        for _ in range(config.train.steps_per_draw):
            yield collate(samples, sources, config.train)


def stream_row(rows: list[Row], seed: int, index: int) -> Row:
    """The sequence at a position of the endless stream of shuffled epochs."""
    epoch, offset = divmod(index, len(rows))
    return _epoch(tuple(rows), seed, epoch)[offset]


_EPOCHS: dict[tuple[int, int, int], list[Row]] = {}


def _epoch(rows: tuple[Row, ...], seed: int, epoch: int) -> list[Row]:
    key = (hash(rows), seed, epoch)
    if key not in _EPOCHS:
        if len(_EPOCHS) >= 2:
            _EPOCHS.clear()
        _EPOCHS[key] = shuffled_rows(rows, seed, epoch)
    return _EPOCHS[key]
