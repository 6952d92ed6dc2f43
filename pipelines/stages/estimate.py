"""What the stages will read, write, compute and cost: bytes from the plan, FLOP counted on a model without numbers.

The rates and prices are assumptions of the configuration (``cost``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aef_model import AlphaEarth, FrameSequence
from aef_model.model import LATTICE_PX
from pipelines.config import Config
from pipelines.grid import Window
from pipelines.sources.base import Kind
from pipelines.stages.modelling import model_config
from pipelines.stages.patches import lay_out
from pipelines.stages.sites import count_sequences
from pipelines.stages.survey import Survey

TRAINING_PERIODS = 3  # valid periods that a step summarises: imaging targets, all others, the student's


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


def train(config: Config, survey: Survey) -> Estimate:
    """All steps, forward and backward."""
    settings = config.train
    frames = {
        name: min(count, settings.max_frames.get(name, count)) for name, count in _input_frames(config, survey).items()
    }
    flop = training_flop(config, frames, settings.crop_px) * settings.batch * settings.steps
    return _computing(config, flop, on_gpu=settings.use_gpu)


def embed(config: Config, survey: Survey) -> Estimate:
    """Reading every tile with its margin, all patches with all frames, 64 bytes a pixel."""
    settings, frames = config.embed, _input_frames(config, survey)
    tiles = len(survey.tiles) * len(config.periods)
    patches = list(lay_out(config.plan.tile_px, config.plan.tile_px, settings.patch_px, settings.margin_px))
    flop = embedding_flop(config, frames, patches[0].height) * len(patches) * tiles
    windows = (tile.window.pad(settings.margin_px) for _ in config.periods for tile in survey.tiles)
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


def embedding_flop(config: Config, frames: dict[str, int], side_px: int) -> int:
    """FLOP of embedding one patch, counted operator by operator on tensors without content."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = AlphaEarth(model_config(config))
        model.embed(_frames(model, frames, side_px), torch.zeros(1, 2, dtype=torch.int64))
    return int(counter.get_total_flops())


def training_flop(config: Config, frames: dict[str, int], side_px: int) -> float:
    """FLOP of one sequence in a step: teacher, decoders, now and then the student. Losses are small beside them."""
    with torch.device("meta"):
        model = AlphaEarth(model_config(config))
        batch = _frames(model, frames, side_px)
        teacher = _counted(lambda: _decoded(model, batch))
        student = _counted(lambda: model.summarise(model.encode(batch), torch.zeros(1, 2, dtype=torch.int64)).sum())
    return teacher + (student / model.cfg.consistency_every if model.cfg.consistency_weight > 0 else 0.0)


def _decoded(model: AlphaEarth, batch: FrameSequence) -> Tensor:
    instant, period = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)
    codes = model.summarise(model.encode(batch), torch.zeros(1, TRAINING_PERIODS, 2, dtype=torch.int64))
    total = codes.sum()
    for source in model.cfg.sources:
        code = codes[:, 0] if source.extent else codes[:, 0, ::LATTICE_PX, ::LATTICE_PX]
        predicted = model.decoders[source.name](code, instant, period, torch.zeros(1, source.geometry_dim))
        total = total + predicted.sum()
    return total


def _counted(forward: Callable[[], Tensor]) -> int:
    with FlopCounterMode(display=False) as counter:
        forward().backward()
    return int(counter.get_total_flops())


def _frames(model: AlphaEarth, frames: dict[str, int], side_px: int) -> FrameSequence:
    bands = {source.name: len(source.bands) for source in model.cfg.inputs if source.name in frames}
    return FrameSequence(
        pixels={name: torch.zeros(1, frames[name], count, side_px, side_px) for name, count in bands.items()},
        time_ms={name: torch.zeros(1, frames[name], dtype=torch.int64) for name in bands},
        present={name: torch.ones(1, frames[name], dtype=torch.bool) for name in bands},
    )
