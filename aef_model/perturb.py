"""What teacher and student do not get to see (SPEC 3.3): changes of ``FrameSequence.present`` and the student's period.

Every sequence draws for itself. A sequence that would lose its last frame keeps them all. All randomness comes from one
torch generator; nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from aef_model.batch import FrameSequence
from aef_model.timecode import DAY_MS

MIN_PERIOD_DAYS = 4.0  # paper: valid periods are longer than this

DROP_FRAMES, FORECAST, BACKCAST = 0, 1, 2


def _uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, device=like.device, generator=generator)


def _with_present(frames: FrameSequence, present: Mapping[str, Tensor]) -> FrameSequence:
    """The sequence with new masks, the old ones where nothing would be left of a sequence."""
    left = _any_frame(present)[:, None]
    kept = {name: torch.where(left, mask, frames.present[name]) for name, mask in present.items()}
    return FrameSequence(pixels=frames.pixels, time_ms=frames.time_ms, present=kept)


def _any_frame(present: Mapping[str, Tensor]) -> Tensor:
    """``(B,)``: whether a sequence has a frame of any source."""
    return torch.stack([mask.any(dim=1) for mask in present.values()]).any(dim=0)


def drop_frames(
    frames: FrameSequence, rates: Mapping[str, float], generator: torch.Generator | None = None
) -> FrameSequence:
    """Each frame of a source goes with that source's probability (the teacher's perturbation of v2.1)."""
    present = {
        name: mask & (_uniform(tuple(mask.shape), mask, generator) >= rates.get(name, 0.0))
        for name, mask in frames.present.items()
    }
    return _with_present(frames, present)


def random_period(start_ms: Tensor, end_ms: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A window of more than four days (or all there is) within ``[start, end)``: ``(B,)`` each to ``(B, 2)`` int64.

    Length first, uniform up to the whole; then its place, uniform.
    """
    span = (end_ms - start_ms).to(torch.float64)
    shortest = torch.minimum(span, torch.full_like(span, MIN_PERIOD_DAYS * DAY_MS + 1))
    draw = torch.rand((2, *span.shape), device=span.device, dtype=torch.float64, generator=generator)
    length = shortest + draw[0] * (span - shortest)
    begin = start_ms + (draw[1] * (span - length)).to(torch.int64)
    return torch.stack([begin, torch.minimum(begin + length.ceil().to(torch.int64), end_ms)], dim=-1)


def student_view(
    frames: FrameSequence,
    support_ms: Tensor,
    drop_source: Mapping[str, float],
    drop_frame: Mapping[str, float],
    generator: torch.Generator | None = None,
    whole_period: float = 0.0,
    strategy: Tensor | None = None,
) -> tuple[FrameSequence, Tensor]:
    """The student's frames and the period that both sides are asked about.

    First whole sources go, then one of three with equal chance: single frames go and the period is a random window of
    the support; the last half of the support goes and the period lies in it; or the first half. A sequence without a
    frame in the half that would be left loses single frames instead.

    Args:
        frames: all frames.
        support_ms: ``(B, 2)``.
        drop_source: probability by source that all of it goes.
        drop_frame: probability by source that a frame goes.
        generator: of all draws.
        whole_period: probability that the first strategy asks for the whole support.
        strategy: ``(B,)`` of ``DROP_FRAMES, FORECAST, BACKCAST``; drawn if None.

    Returns:
        The perturbed frames and ``(B, 2)`` int64.
    """
    start, end = support_ms[:, 0], support_ms[:, 1]
    middle = start + (end - start) // 2
    if strategy is None:
        strategy = torch.randint(3, start.shape, device=start.device, generator=generator)
    early = {name: mask & (frames.time_ms[name] < middle[:, None]) for name, mask in frames.present.items()}
    late = {name: mask & ~early[name] for name, mask in frames.present.items()}
    # What has no frame in the half that would be left cannot be asked about the other.
    forecast = (strategy == FORECAST) & _any_frame(early)
    backcast = (strategy == BACKCAST) & _any_frame(late)
    allowed, present = {}, {}
    for name, mask in frames.present.items():
        keep_source = _uniform((mask.shape[0], 1), mask, generator) >= drop_source.get(name, 0.0)
        keep_frame = _uniform(tuple(mask.shape), mask, generator) >= drop_frame.get(name, 0.0)
        keep_frame = keep_frame | forecast[:, None] | backcast[:, None]
        half = torch.where(forecast[:, None], early[name], torch.where(backcast[:, None], late[name], mask))
        allowed[name], present[name] = half, half & keep_source & keep_frame
    low = torch.where(forecast, middle, start)
    high = torch.where(backcast, middle, end)
    period = random_period(low, high, generator)
    whole = ~forecast & ~backcast & (_uniform((start.shape[0],), start, generator) < whole_period)
    left = FrameSequence(pixels=frames.pixels, time_ms=frames.time_ms, present=allowed)
    return _with_present(left, present), torch.where(whole[:, None], support_ms, period)
