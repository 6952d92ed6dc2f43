"""FLOP of the model, counted operator by operator on tensors without content."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from aef_model import AlphaEarth, FrameSequence
from aef_model.model import LATTICE_PX
from pipelines.config import Config
from pipelines.stages.modelling import model_config
from pipelines.stages.patches import lay_out

TRAINING_PERIODS = 3  # valid periods that a step summarises: imaging targets, all others, the student's


def step_flop(config: Config, frames: dict[str, int]) -> float:
    """FLOP of a training step: all crops of the global batch."""
    return training_flop(config, frames, config.train.crop_px) * config.train.batch


def tile_flop(config: Config, frames: dict[str, int]) -> float:
    """FLOP of embedding a tile: all its patches with their margins."""
    patches = list(lay_out(config.plan.tile_px, config.plan.tile_px, config.embed.patch_px, config.embed.margin_px))
    return float(embedding_flop(config, frames, patches[0].height) * len(patches))


def embedding_flop(config: Config, frames: dict[str, int], side_px: int) -> int:
    """FLOP of embedding one patch."""
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
