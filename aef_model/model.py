"""The Space-Time-Precision model of AlphaEarth Foundations v2.1: frames in, one 64-number code a pixel and period."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from aef_model import losses
from aef_model.batch import Batch, FrameSequence, TextTarget
from aef_model.blocks import Block
from aef_model.bottleneck import check_kappa, sample_von_mises_fisher, to_unit
from aef_model.check import check_batch, check_frames, check_period
from aef_model.config import ModelConfig, SourceConfig
from aef_model.decoders import Decoder, TextHead
from aef_model.distributed import gather, total, world
from aef_model.exchange import Spread
from aef_model.init import keep_variance
from aef_model.parts import parts
from aef_model.perturb import drop_frames, student_view
from aef_model.precision import full_precision
from aef_model.project import Projector
from aef_model.summary import PeriodPooling, Upsampler
from aef_model.timeaxis import Measured, TimeAxis, join_sources, pack_sources
from aef_model.timecode import TIME_DIM, time_code

LATTICE_PX = 4  # sources without extent are decoded at every 4th pixel on each axis: their value is the same everywhere


@dataclass(frozen=True)
class Features:
    """An encoded sequence, from which any number of periods can be summarised.

    Attributes:
        frames: ``(M, H/2, W/2, C)``, the listed frames.
        axis: where they stand in time.
    """

    frames: Tensor
    axis: TimeAxis


@dataclass(frozen=True)
class Output:
    """The result of a training forward.

    Attributes:
        losses: unweighted, by name: ``reconstruction`` (weighted mean over sources), ``reconstruction/<source>``,
            ``uniformity``, ``consistency`` (absent on steps without student), ``text`` (absent without texts).
        total: what to minimise.
    """

    losses: dict[str, Tensor]
    total: Tensor


class AlphaEarth(nn.Module):
    """The model.

    Distributed training: every parameter takes part in every step. Modules that a batch does not need (the decoder of
    an absent source, the projector of an input without frames, the text head) give a zero gradient through
    one multiplication by 0, so DistributedDataParallel needs no search for unused parameters. It comes in the backward
    pass when theirs would: decoders' before the code norm exchanges, projectors' after it, or processes would meet
    in two orders. All processes must use equal batch and patch sizes, because uniformity and the text contrast
    gather the codes of the global batch.

    Args:
        cfg: what to build.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        if cfg.kappa is not None:
            check_kappa(cfg.kappa, cfg.embedding_dim)
        self.cfg = cfg
        self.projectors = nn.ModuleDict({s.name: Projector(len(s.bands), cfg.precision_dim) for s in cfg.inputs})
        self.code = nn.Sequential(
            keep_variance(nn.Linear(TIME_DIM, cfg.time_dim)),
            nn.GELU(),
            keep_variance(nn.Linear(cfg.time_dim, cfg.time_dim), 0.7),
        )
        self.spread = Spread(cfg)
        self.blocks = nn.ModuleList(Block(cfg, last=i + 1 == cfg.blocks) for i in range(cfg.blocks))
        self.pooling = PeriodPooling(cfg)
        self.upsampler = Upsampler(cfg)
        self.decoders = nn.ModuleDict({s.name: Decoder(cfg, s) for s in cfg.sources})
        self.text_head = TextHead(cfg) if cfg.text_dim else None
        self._steps = 0  # training forwards so far, for consistency_every

    def encode(self, frames: FrameSequence) -> Features:
        """Encode a sequence once.

        Raises:
            ValueError: for frames that do not fit the configuration.
        """
        check_frames(self.cfg, frames)
        names = [source.name for source in self.cfg.inputs if source.name in frames.pixels]
        axis, listed = pack_sources(
            [frames.pixels[name] for name in names],
            [frames.time_ms[name] for name in names],
            [frames.present[name] for name in names],
        )
        projected, measured, start = [], [], 0
        for name, pixels in zip(names, listed, strict=True):
            if axis.slots is None:
                present, time_ms = frames.present[name].flatten(), frames.time_ms[name].flatten()
                time_ms = torch.where(present, time_ms, 0)
            else:
                time_ms = axis.listed_time_ms[start : start + len(pixels)]
                present = torch.ones_like(time_ms, dtype=torch.bool)
            start += len(pixels)
            code = time_code(time_ms)
            values_each = pixels[:1, 0].numel() // 4 * self.cfg.precision_dim
            done = [
                self._run(self.projectors[name], pixels[part], present[part], code[part])
                for part in parts(pixels, len(pixels), values_each)
            ]
            cells, seen = (x[0] if len(x) == 1 else torch.cat(x) for x in zip(*done, strict=True))
            projected.append(cells)
            measured.append(seen)
        axis = replace(axis, measured=Measured.of(join_sources(axis, measured)))
        state = self.spread(join_sources(axis, projected))
        code = F.gelu(self.code(time_code(axis.listed_time_ms)))
        if torch.is_grad_enabled():
            code = code + _zero_of(m for name, m in self.projectors.items() if name not in frames.pixels)
        for block in self.blocks:
            state = self._run(block, state, code, axis)
        return Features(state.precision, axis)

    def _run(self, part: nn.Module, *arguments: Any) -> Any:
        """A part that draws nothing at random and changes nothing: its activations may be computed again."""
        if self.cfg.checkpoint_blocks and torch.is_grad_enabled():
            return checkpoint(part, *arguments, use_reentrant=False, preserve_rng_state=False)
        return part(*arguments)

    def summarise(self, features: Features, period_ms: Tensor) -> Tensor:
        """Mean directions over periods.

        Args:
            features: of :meth:`encode`.
            period_ms: ``(B, 2)`` or ``(B, P, 2)`` int64; periods may lie outside the frames' times.

        Returns:
            ``(B, H, W, D)`` or ``(B, P, H, W, D)`` float32 of unit length.

        Raises:
            ValueError: for periods that do not fit the features.
        """
        several = period_ms.ndim == 3
        if several and not period_ms.shape[1]:
            raise ValueError("period_ms holds no period")
        periods = period_ms if several else period_ms[:, None]
        axis = features.axis
        for i in range(periods.shape[1]):
            check_period("period_ms", periods[:, i], len(axis.present))
        assert axis.measured is not None
        measured = axis.spread(axis.measured.precision)
        pooled = self._run(self.pooling, axis.spread(features.frames), axis.time_ms, measured, periods)
        mean = to_unit(self.upsampler(pooled.flatten(0, 1))).unflatten(0, periods.shape[:2])
        return mean if several else mean[:, 0]

    @torch.no_grad()
    def embed(self, frames: FrameSequence, period_ms: Tensor, max_patches: int | None = None) -> Tensor:
        """The embedding of each pixel over a period, without noise.

        Args:
            frames: all frames there are (no subsampling at inference, SPEC 5.4).
            period_ms: ``(B, 2)`` int64.
            max_patches: at most so many patches at a time, to bound memory.

        Returns:
            ``(B, H, W, 64)`` float32 of unit length. A patch without any frame gets one constant vector: callers mask
            it.

        Raises:
            ValueError: for frames or periods that do not fit.
        """
        batch, _, _ = check_frames(self.cfg, frames)
        check_period("period_ms", period_ms, batch)
        if max_patches is not None and max_patches < 1:
            raise ValueError(f"max_patches must be at least 1, not {max_patches}")
        if self.training:  # the code norm would take the batch's statistics, and learn from them
            self.eval()
            try:
                return self.embed(frames, period_ms, max_patches)
            finally:
                self.train()
        step = max_patches or batch
        parts = []
        for start in range(0, batch, step):
            cut = slice(start, start + step)
            part = FrameSequence(
                {name: x[cut] for name, x in frames.pixels.items()},
                {name: x[cut] for name, x in frames.time_ms.items()},
                {name: x[cut] for name, x in frames.present.items()},
            )
            parts.append(self.summarise(self.encode(part), period_ms[cut]))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def forward(self, batch: Batch, generator: torch.Generator | None = None, step: int | None = None) -> Output:
        """One training step's losses.

        In training mode the teacher loses frames and codes are sampled; in evaluation mode neither happens.

        Args:
            batch: targets are already taken out of its frames.
            generator: of all random draws, on the batch's device.
            step: number of the step, which decides whether the student runs (every ``consistency_every`` steps,
                starting with 0); default is a count of training forwards. Evaluation always runs it.

        Raises:
            ValueError: for a batch that does not fit the configuration.
        """
        size, _, _ = check_batch(self.cfg, batch)
        cfg = self.cfg
        if step is None:
            step = self._steps
            if self.training:
                self._steps += 1
        with_student = cfg.consistency_weight > 0 and (not self.training or step % cfg.consistency_every == 0)

        frames = batch.frames
        if self.training and cfg.teacher_drop > 0:
            rates = {source.name: source.drop_frames * cfg.teacher_drop for source in cfg.inputs}
            frames = drop_frames(frames, rates, generator)
        features = self.encode(frames)
        used = {target.period for target in batch.targets.values()}
        if batch.text is not None:
            used.add(batch.text.period)
        names = [name for name in batch.periods_ms if name in used] or list(batch.periods_ms)
        asked = [batch.periods_ms[name] for name in names]
        if with_student:
            student_frames, student_period = student_view(
                batch.frames,
                batch.support_ms,
                {source.name: source.drop_source for source in cfg.inputs},
                {source.name: source.drop_frames for source in cfg.inputs},
                generator,
                cfg.whole_period,
            )
            asked.append(student_period)
        if not asked:
            raise ValueError("the batch has no period to summarise: periods_ms is empty")
        means = self.summarise(features, torch.stack(asked, dim=1))  # (B, P, H, W, D)
        student = self.summarise(self.encode(student_frames), student_period) if with_student else None

        mean = {name: means[:, i] for i, name in enumerate(names)}
        code = dict(mean)
        if self.training and cfg.kappa is not None:
            code = {name: sample_von_mises_fisher(mu, cfg.kappa, generator) for name, mu in mean.items()}
        predictions = self._decode(batch, code, generator)
        with full_precision(means.device):
            terms = self._reconstruction(batch, predictions, generator)
            total = cfg.reconstruction_weight * terms["reconstruction"]
            if cfg.uniformity_weight > 0 and code:
                site = batch.site if batch.site is not None else _own_sites(size, means.device)
                # One period, drawn anew: processes may differ in how many they pool, and must gather equal shapes.
                draw = torch.randint(2**31, (1,), device=means.device, generator=generator)
                one = gather(draw)[:1] % len(code)
                spread = self._lattice(torch.stack(list(code.values())), cfg.uniformity_stride, generator)
                spread = spread.index_select(0, one)[0]
                terms["uniformity"] = losses.uniformity(spread, site, generator)
                total = total + cfg.uniformity_weight * terms["uniformity"]
            if student is not None:
                terms["consistency"] = losses.consistency(means[:, -1], student)
                scale = cfg.consistency_every if self.training else 1
                total = total + cfg.consistency_weight * scale * terms["consistency"]
            text = batch.text
            if text is None and names and world()[1] > 1:  # all processes take part in the contrast, whoever has texts
                text = _no_texts(names[0], size, cfg.text_dim, means.device)
            if text is not None and self.text_head is not None:
                place = mean[text.period][torch.arange(size, device=means.device), text.row, text.col]
                vector = torch.where(text.present[:, None], text.vector, 0.0)  # where there is none may be anything
                there = self.text_head(vector, batch.periods_ms[text.period])
                terms["text"] = losses.contrast(place, there, text.present, self.text_head.temperature())
                total = total + cfg.text_weight * terms["text"]
        return Output(terms, total + self._touch_unused(batch, means))

    def _decode(self, batch: Batch, code: dict[str, Tensor], generator: torch.Generator | None) -> dict[str, Tensor]:
        """``(B*K, outputs, H, W)`` by source; on a lattice for sources without extent."""
        predictions = {}
        for name, target in batch.targets.items():
            u = code[target.period]
            if not self.cfg.source(name).extent:
                u = self._lattice(u, LATTICE_PX, generator)
            decoder = self.decoders[name]
            period = batch.periods_ms[target.period]
            decoded = self._run(decoder, u, target.time_ms, period, target.geometry)
            predictions[name] = decoded.permute(0, 3, 1, 2)
        return predictions

    @staticmethod
    def _lattice(code: Tensor, step_px: int, generator: torch.Generator | None) -> Tensor:
        """Every n-th pixel on each axis of ``(..., H, W, D)``, from a random one on."""
        if step_px == 1:
            return code
        phase = torch.randint(step_px, (2,), device=code.device, generator=generator)
        for axis, start in ((-3, phase[0]), (-2, phase[1])):
            places = torch.arange(0, code.shape[axis] - step_px + 1, step_px, device=code.device)
            code = code.index_select(axis, places + start)
        return code

    def _reconstruction(
        self, batch: Batch, predictions: dict[str, Tensor], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """Each source's mean error over the global batch, and their mean with the sources' weights.

        A source of which nothing was measured does not count. Processes add up errors and weights before they divide:
        means of each process's own would make the few footprints in one count as much as the many in another.
        """
        nothing = batch.support_ms.new_zeros((), dtype=torch.float32)
        own = dict.fromkeys((source.name for source in self.cfg.sources), losses.ErrorSum(nothing, nothing))
        for name, prediction in predictions.items():
            source, target = self.cfg.source(name), batch.targets[name]
            own[name] = source_error(source, prediction, target.values, target.weight.float(), generator)
        errors = total(torch.stack([found.error for found in own.values()]))
        weights = total(torch.stack([found.weight for found in own.values()]).detach())
        means = losses.ErrorSum(errors, weights).mean()
        terms, whole, shares = {}, nothing, nothing
        for name, mean, weight in zip(own, means.unbind(), weights.unbind(), strict=True):
            share = self.cfg.source(name).loss_weight * (weight > 0)
            whole, shares = whole + share * mean, shares + share
            if name in predictions:
                terms[f"reconstruction/{name}"] = mean
        return {"reconstruction": whole / shares.clamp_min(1e-6), **terms}

    def _touch_unused(self, batch: Batch, means: Tensor) -> Tensor:
        """Zero, with a zero gradient to what no term of this batch uses of decoders, text head and codes."""
        idle: list[nn.Module] = [m for name, m in self.decoders.items() if name not in batch.targets]
        if self.text_head is not None and batch.text is None:
            idle.append(self.text_head)
        return _zero_of(idle) + means.flatten()[0] * 0.0


def _zero_of(modules: Iterable[nn.Module]) -> Tensor | float:
    """Zero, with a zero gradient to every parameter of some modules."""
    return sum(parameter.flatten()[0].float() * 0.0 for module in modules for parameter in module.parameters())


def source_error(
    source: SourceConfig, prediction: Tensor, values: Tensor, weight: Tensor, generator: torch.Generator | None = None
) -> losses.ErrorSum:
    """One source's f_i: its metric with its shift invariance or re-gridding (SPEC 3.1).

    Args:
        source: which.
        prediction: ``(B*K, outputs, H, W)``.
        values: of :class:`aef_model.batch.Target`.
        weight: the same.
        generator: for the phase of the coarser grid.
    """
    if source.classes is not None:
        phase = losses.random_phase(source.regrid_px, values.device, generator) if source.regrid_px > 1 else None
        return losses.class_error(prediction, values, weight, source.regrid_px, phase)
    values = values.float()
    weight = weight * torch.isfinite(values)
    if not source.extent:
        if source.regrid_px:  # the cell is the whole patch
            prediction = prediction.mean(dim=(2, 3), keepdim=True)
        return losses.absolute_error(prediction, values.expand_as(prediction), weight.expand_as(prediction))
    if source.shift_px:
        return losses.shift_invariant_error(prediction, values, weight, source.shift_px)
    if source.regrid_px > 1:
        phase = losses.random_phase(source.regrid_px, values.device, generator)
        return losses.regridded_error(prediction, values, weight, source.regrid_px, phase)
    return losses.absolute_error(prediction, values, weight)


def _no_texts(period: str, batch: int, dim: int, device: torch.device) -> TextTarget:
    nowhere = torch.zeros(batch, dtype=torch.int64, device=device)
    return TextTarget(torch.zeros(batch, dim, device=device), nowhere, nowhere, nowhere > 0, period)


def _own_sites(batch: int, device: torch.device) -> Tensor:
    """A site of its own for every sequence of the global batch."""
    return torch.arange(batch, device=device) + world()[0] * batch
