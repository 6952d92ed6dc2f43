"""What the stages will read, write, compute and cost: bytes from the plan, FLOP from who can count them.

The rates and prices are assumptions of the configuration (``cost``). Workers that read import this, hence no torch: it
takes 0.2 GiB a process, its CUDA build 0.45 GiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass

import numpy as np

from pipelines.config import Config
from pipelines.grid import Window
from pipelines.sources.base import Kind
from pipelines.stages.sites import count_sequences
from pipelines.stages.survey import Survey

FlopOf = Callable[[Config, dict[str, int]], float]
"""Counts FLOP (:mod:`pipelines.stages.flop`) from the configuration and the frames of a pixel by input."""


@dataclass(frozen=True)
class Estimate:
    """What a stage takes: bytes from the archives (as stored there) and to the root, FLOP, hours."""

    fetched: float = 0.0
    written: float = 0.0
    flop: float = 0.0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.fetched + other.fetched,
            self.written + other.written,
            self.flop + other.flop,
            self.gpu_hours + other.gpu_hours,
            self.cpu_hours + other.cpu_hours,
        )

    def left(self, done: float, planned: float) -> Estimate:
        """What is still to be spent when some of the planned work, all of one kind, is done."""
        share = max(planned - done, 0) / planned if planned else 0.0
        return Estimate(*(share * value for value in astuple(self)))

    def text(self, config: Config) -> str:
        """For a person, with the assumptions that it rests on."""
        cost = config.cost
        if self == Estimate():
            return "nothing left to do"
        parts = []
        if self.fetched:
            parts.append(f"fetches {_size(self.fetched)} (compressed {cost.compression:g}:1)")
        if self.written:
            parts.append(f"writes {_size(self.written)} before compression")
        if self.flop:
            parts.append(f"{self.flop:.2g} FLOP")
        price = self.gpu_hours * cost.gpu_hour + self.cpu_hours * cost.cpu_hour
        hours = f"{_number(self.gpu_hours)} GPU-hours, {_number(self.cpu_hours)} CPU-hours"
        return ", ".join([*parts, hours, f"cost {_number(price)}"])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def ingest(config: Config, survey: Survey, windows: Iterable[Window]) -> Estimate:
    """Reading windows, each in one period, and writing all frames of the sites at 10 m."""
    periods = config.support_periods
    pixels = sum(
        site.window.width_px * site.window.height_px * count_sequences([site], periods) for site in survey.sites
    )
    pixel_bytes = 0.0
    for name, look in survey.looks.items():
        source = config.source(name)
        pixel_bytes += look.frames * len(source.bands) * np.dtype(source.dtype).itemsize
    return _reading(config, survey, windows, set(survey.looks)) + Estimate(written=pixels * pixel_bytes)


def train(config: Config, survey: Survey, step_flop: FlopOf) -> Estimate:
    """All steps, forward and backward."""
    settings = config.train
    frames = {
        name: min(count, settings.max_frames.get(name, count)) for name, count in _input_frames(config, survey).items()
    }
    return _computing(config, step_flop(config, frames) * settings.steps, on_gpu=settings.use_gpu)


def embed(config: Config, survey: Survey, tile_flop: FlopOf, windows: Iterable[Window]) -> Estimate:
    """Reading windows, each in one period, all patches of all tiles with all frames, 64 bytes a pixel."""
    settings, frames = config.embed, _input_frames(config, survey)
    tiles = len(survey.tiles) * len(config.periods)
    flop = tile_flop(config, frames) * tiles
    written = Estimate(written=tiles * config.plan.tile_px**2 * 64.0)
    return _reading(config, survey, windows, set(frames)) + _computing(config, flop, settings.gpus > 0) + written


def _reading(config: Config, survey: Survey, windows: Iterable[Window], names: set[str]) -> Estimate:
    cost = config.cost
    looks = [look for name, look in survey.looks.items() if name in names]
    native = sum(look.bytes_of(window, cost.block_px) for window in windows for look in looks)
    fetched = native / cost.compression
    return Estimate(fetched=fetched, cpu_hours=fetched / 1e9 * cost.cpu_seconds_per_gb / 3600)


def _computing(config: Config, flop: float, on_gpu: bool) -> Estimate:
    rate = config.cost.gpu_tflops * 1e12 if on_gpu else config.cost.cpu_gflops * 1e9
    hours = flop / rate / 3600
    return Estimate(flop=flop, gpu_hours=hours if on_gpu else 0.0, cpu_hours=0.0 if on_gpu else hours)


def _input_frames(config: Config, survey: Survey) -> dict[str, int]:
    """Whole frames of a pixel and period, of every input that the area has."""
    return {
        name: max(round(look.frames), 1)
        for name, look in survey.looks.items()
        if config.source(name).is_input and config.source(name).kind is Kind.FRAMES
    }
