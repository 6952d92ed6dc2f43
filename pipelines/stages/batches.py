"""From decoded sequences to model batches: draw frames, cut crops, pad, and (on the accelerator) normalise.

Up to :func:`to_batch` everything is numpy in the native types of the shards; nothing is converted to floating point
before it is on the device that trains. What a sample holds depends on (seed, epoch, sequence) alone, never on the
number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from aef_model import Batch, FrameSequence, Target, TextTarget
from aef_model.sampling import Draw, draw_sample
from pipelines.config import TrainConfig
from pipelines.sequence import Sequence
from pipelines.sources import Source
from pipelines.sources.base import Kind
from pipelines.sources.statistics import Statistics, normalise

TEXT = "text"
# Half of the crops of a sequence with texts are laid over one of them; the others keep the sampling of places even.
TEXT_CROPS = 0.5
GAP_PX = (0.5, 2.0)  # SPEC 1.2: width of the line blanked in all Sentinel-1 frames of a sequence


@dataclass
class RawInput:
    """Frames of one input source: native values and what turns them into physical ones.

    ``values (B, N, C, h, w)``, ``scale``/``offset (B, N, C)``, ``time_ms (B, N)``, ``present (B, N)``.
    """

    values: NDArray
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    time_ms: NDArray[np.int64]
    present: NDArray[np.bool_]
    nodata: float


@dataclass
class RawTarget:
    """The held-out measurements of one source, K a sequence side by side (see :class:`aef_model.Target`).

    ``values (B*K, C, h, w)``, ``weight (B*K, h, w)``, ``scale``/``offset (B*K, C)``, ``time_ms (B*K,)``,
    ``geometry (B*K, G)``.
    """

    values: NDArray
    weight: NDArray[np.float32]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    time_ms: NDArray[np.int64]
    geometry: NDArray[np.float32]
    nodata: float
    period: str


@dataclass
class RawText:
    """``vector (B, T)``, ``row``/``col``/``present (B,)``."""

    vector: NDArray[np.float32]
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    present: NDArray[np.bool_]
    period: str


@dataclass
class RawBatch:
    """A batch before normalisation."""

    inputs: dict[str, RawInput]
    targets: dict[str, RawTarget]
    support_ms: NDArray[np.int64]
    periods_ms: dict[str, NDArray[np.int64]]
    site: NDArray[np.int64]
    text: RawText | None = field(default=None)


@dataclass
class Drawn:
    """What was drawn for one sequence.

    Attributes:
        draw: indices into the sequence's frames as stored.
        frames: per raster source the stored frames that must be decoded, inputs first, then the targets.
    """

    draw: Draw
    frames: dict[str, NDArray[np.int64]]


def draw_for(head: Sequence, sources: Mapping[str, Source], train: TrainConfig, rng: np.random.Generator) -> Drawn:
    """Draw frames, targets and periods of a sequence from its times, and from its weights what may be a target.

    A frame of which no pixel counts (clouded all over) teaches a decoder nothing; it is encoded like any other.
    """
    support = (head.period.start_ms, head.period.end_ms)
    times, valid, usable = {}, {}, {}
    for name, source in sources.items():
        if name in head.rasters:
            times[name] = head.rasters[name].time_ms
            valid[name] = head.rasters[name].valid_ms
            usable[name] = np.asarray(head.rasters[name].weight.any(axis=(1, 2)))
            if source.kind in (Kind.STATIC, Kind.CLASSES):  # holds always, or was chosen as the nearest year
                valid[name] = np.broadcast_to(np.array(support, np.int64), (len(times[name]), 2))
        elif name in head.points and len(head.points[name].time_ms):
            times[name] = np.array([int(head.points[name].time_ms.mean())], np.int64)
            valid[name] = np.array([support], np.int64)
    inputs = [name for name, source in sources.items() if source.is_input]
    draw = draw_sample(
        times,
        support,
        rng,
        inputs=inputs,
        max_frames=train.max_frames,
        valid=valid,
        usable=usable,
        grouping="shared" if train.shared_periods else "each",
        whole_period=train.whole_period,
        also=(TEXT,),
        max_targets=train.max_targets,
    )
    if not train.hold_out:
        seen = {name: np.union1d(index, draw.target.get(name, index)) for name, index in draw.frames.items()}
        draw = replace(draw, frames=seen)
    none = np.empty(0, np.int64)
    frames = {name: np.concatenate([draw.frames.get(name, none), draw.target.get(name, none)]) for name in head.rasters}
    return Drawn(draw, frames)


Sample = tuple[Sequence, Drawn, np.random.Generator]


def collate(samples: list[Sample], sources: Mapping[str, Source], train: TrainConfig) -> RawBatch:
    """One crop of every sample, stacked.

    Args:
        samples: sequences decoded with the frames that were drawn, and the generator of their crops.
        sources: as configured.
        train: crop size.
    """
    crops = [_crop(sequence, train.crop_px, rng) for sequence, _, rng in samples]
    draws = [drawn.draw for _, drawn, _ in samples]
    batch = RawBatch(
        inputs={},
        targets={},
        support_ms=np.array([[s.period.start_ms, s.period.end_ms] for s, _, _ in samples], np.int64),
        periods_ms={},
        site=np.array([_site_number(s) for s, _, _ in samples], np.int64),
    )
    # A period that a sample did not draw (it has no source for it) is its support: its targets weigh nothing.
    for name in sorted({name for draw in draws for name in draw.periods}):
        batch.periods_ms[name] = np.array(
            [draw.periods.get(name, tuple(support)) for draw, support in zip(draws, batch.support_ms, strict=True)],
            np.int64,
        )
    for name, source in sources.items():
        if source.is_input and any(len(draw.frames.get(name, ())) for draw in draws):
            batch.inputs[name] = _inputs(name, source, samples, crops, train.crop_px)
        if any(name in draw.target for draw in draws):
            batch.targets[name] = _targets(name, source, samples, crops, train.crop_px, batch.periods_ms)
    batch.text = _texts(samples, crops, train.crop_px)
    return batch


@dataclass(frozen=True)
class Crop:
    """A square of a sequence, in its pixels; it may reach past a small sequence's edge."""

    row: int
    col: int

    def take(self, array: NDArray, size: int, fill: float) -> NDArray:
        """``(..., H, W)`` to ``(..., size, size)``, filled where the sequence has no pixels."""
        part = array[..., self.row : self.row + size, self.col : self.col + size]
        if part.shape[-2:] == (size, size):
            return part
        out = np.full((*array.shape[:-2], size, size), fill, array.dtype)
        out[..., : part.shape[-2], : part.shape[-1]] = part
        return out


def _crop(sequence: Sequence, size: int, rng: np.random.Generator) -> Crop:
    height, width = sequence.window.shape
    low, high = np.array([0, 0]), np.array([max(height - size, 0), max(width - size, 0)])
    if sequence.texts is not None and rng.random() < TEXT_CROPS:
        index = rng.integers(len(sequence.texts.row))
        point = np.array([sequence.texts.row[index], sequence.texts.col[index]])
        low, high = np.clip(point - size + 1, low, high), np.clip(point, low, high)
    row, col = rng.integers(low, high + 1)
    return Crop(int(row), int(col))


def _site_number(sequence: Sequence) -> int:
    window = sequence.window
    digest = hashlib.blake2b(f"{window.epsg}_{window.left_m}_{window.top_m}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _inputs(name: str, source: Source, samples: list[Sample], crops: list[Crop], size: int) -> RawInput:
    counts = [len(drawn.draw.frames.get(name, ())) for _, drawn, _ in samples]
    batch, frames, bands = len(samples), max(counts), len(source.bands)
    nodata = float(source.nodata)
    raw = RawInput(
        values=np.full((batch, frames, bands, size, size), nodata, source.dtype),
        scale=np.ones((batch, frames, bands), np.float32),
        offset=np.zeros((batch, frames, bands), np.float32),
        time_ms=np.zeros((batch, frames), np.int64),
        present=np.zeros((batch, frames), bool),
        nodata=nodata,
    )
    for index, ((sequence, _, rng), crop, count) in enumerate(zip(samples, crops, counts, strict=True)):
        if not count:
            continue
        raster = sequence.rasters[name]
        cut = raw.values[index, :count]
        cut[:] = crop.take(raster.values[:count], size, nodata)
        raw.scale[index, :count], raw.offset[index, :count] = raster.scale[:count], raster.offset[:count]
        raw.time_ms[index, :count] = raster.time_ms[:count]
        if name == "sentinel1":
            cut[..., _gap(size, rng)] = nodata
        measured = ~np.isnan(cut) if np.isnan(nodata) else cut != nodata
        raw.present[index, :count] = measured.any(axis=(1, 2, 3))
    return raw


def _gap(size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """``(size, size)``, True on a line at a random place and angle."""
    angle, width = rng.uniform(0, np.pi), rng.uniform(*GAP_PX)
    row, col = rng.uniform(0, size, 2)
    rows, cols = np.mgrid[:size, :size] + 0.5
    return np.asarray(np.abs((cols - col) * np.sin(angle) - (rows - row) * np.cos(angle)) < width / 2)


def _targets(
    name: str,
    source: Source,
    samples: list[Sample],
    crops: list[Crop],
    size: int,
    periods_ms: dict[str, NDArray[np.int64]],
) -> RawTarget:
    batch, bands = len(samples), len(source.bands)
    side = 1 if source.kind is Kind.SERIES else size
    nodata = float("nan") if source.kind is Kind.POINTS else float(source.nodata)
    period = next(drawn.draw.period_of[name] for _, drawn, _ in samples if name in drawn.draw.period_of)
    most = max(len(drawn.draw.target.get(name, ())) for _, drawn, _ in samples)
    rows = batch * most
    raw = RawTarget(
        values=np.full((rows, bands, side, side), nodata, source.dtype),
        weight=np.zeros((rows, side, side), np.float32),
        scale=np.ones((rows, bands), np.float32),
        offset=np.zeros((rows, bands), np.float32),
        time_ms=np.repeat(periods_ms[period].mean(axis=1).astype(np.int64), most),
        geometry=np.zeros((rows, len(source.geometry_names)), np.float32),
        nodata=nodata,
        period=period,
    )
    for first, (sequence, drawn, _), crop in zip(range(0, rows, most), samples, crops, strict=True):
        count = len(drawn.draw.target.get(name, ()))
        if not count:
            continue
        if source.kind is Kind.POINTS:
            points = sequence.points[name]
            row, col = points.row - crop.row, points.col - crop.col
            inside = (row >= 0) & (row < size) & (col >= 0) & (col < size)
            raw.values[first][:, row[inside], col[inside]] = points.values[inside].T
            raw.weight[first, row[inside], col[inside]] = 1
            raw.time_ms[first] = int(points.time_ms.mean())
            continue
        raster, its = sequence.rasters[name], slice(first, first + count)
        values, weight = raster.values[-count:], raster.weight[-count:]
        if source.kind is not Kind.SERIES:
            values, weight = crop.take(values, size, nodata), crop.take(weight, size, 0)
        raw.values[its], raw.weight[its] = values, weight / 255
        raw.scale[its], raw.offset[its] = raster.scale[-count:], raster.offset[-count:]
        if source.kind is not Kind.STATIC:
            raw.time_ms[its] = raster.time_ms[-count:]
        if raw.geometry.shape[1]:
            raw.geometry[its] = raster.geometry[-count:]
    return raw


def _texts(samples: list[Sample], crops: list[Crop], size: int) -> RawText | None:
    vectors = [s.texts.vector.shape[1] for s, _, _ in samples if s.texts is not None]
    if not vectors:
        return None
    batch = len(samples)
    raw = RawText(
        vector=np.zeros((batch, vectors[0]), np.float32),
        row=np.zeros(batch, np.int64),
        col=np.zeros(batch, np.int64),
        present=np.zeros(batch, bool),
        period=next(drawn.draw.period_of[TEXT] for _, drawn, _ in samples),
    )
    for index, ((sequence, _, rng), crop) in enumerate(zip(samples, crops, strict=True)):
        if sequence.texts is None:
            continue
        row, col = sequence.texts.row - crop.row, sequence.texts.col - crop.col
        inside = np.flatnonzero((row >= 0) & (row < size) & (col >= 0) & (col < size))
        if len(inside):
            chosen = rng.choice(inside)
            raw.vector[index] = sequence.texts.vector[chosen]
            raw.row[index], raw.col[index], raw.present[index] = row[chosen], col[chosen], True
    return raw if raw.present.any() else None


def to_batch(raw: RawBatch, sources: Mapping[str, Source], statistics: Statistics, device: torch.device) -> Batch:
    """Move a batch to a device in its native types and normalise it there."""

    def move(array: NDArray) -> torch.Tensor:
        # Arrays from the object store are read-only, which torch cannot express.
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device, non_blocking=True)

    frames = FrameSequence({}, {}, {})
    for name, part in raw.inputs.items():
        frames.pixels[name] = normalise(
            sources[name], statistics[name], move(part.values), move(part.scale), move(part.offset), part.nodata
        )
        frames.time_ms[name], frames.present[name] = move(part.time_ms), move(part.present)
    targets = {}
    for name, target in raw.targets.items():
        source = sources[name]
        weight = move(target.weight)
        if source.kind is Kind.CLASSES:
            table = torch.full((256,), -1, dtype=torch.int64, device=device)
            table[list(source.classes)] = torch.arange(len(source.classes), device=device)
            values = table[move(target.values)[:, 0].long()]
            weight = weight * (values >= 0)
        else:
            values = normalise(
                source, statistics[name], move(target.values), move(target.scale), move(target.offset), target.nodata
            )
            weight = weight[:, None].expand(-1, values.shape[1], -1, -1)
        targets[name] = Target(values, weight, move(target.time_ms), target.period, move(target.geometry))
    text = None
    if raw.text is not None:
        t = raw.text
        text = TextTarget(move(t.vector), move(t.row), move(t.col), move(t.present), t.period)
    return Batch(
        frames=frames,
        support_ms=move(raw.support_ms),
        periods_ms={name: move(period) for name, period in raw.periods_ms.items()},
        targets=targets,
        text=text,
        site=move(raw.site),
    )
