"""Time as numbers a network can use: absolute sinusoids of an instant or a period, and time relative to a period.

Epoch milliseconds need 41 bits, float32 has 24: everything stays in int64 and float64 until the sinusoid is taken.
Nothing here knows the calendar, so no day of the year is special.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DAY_MS = 86_400_000
YEAR_DAYS = 365.2425
EPOCH_MS = 1_483_228_800_000  # 2017-01-01, the start of the archives; only a phase

# Seasonal position to a day (the fastest wave takes 22.8 days, so that a day is a small step), and which year it is.
ANNUAL_HARMONICS = (1, 2, 3, 4, 6, 8, 12, 16)
SECULAR_YEARS = (3, 7, 17, 41)
CYCLES_PER_DAY = tuple(k / YEAR_DAYS for k in ANNUAL_HARMONICS) + tuple(1 / (y * YEAR_DAYS) for y in SECULAR_YEARS)

TIME_DIM = 2 * len(CYCLES_PER_DAY)
PERIOD_DIM = 2 * TIME_DIM + 1
RELATIVE_DIM = 4

# Half waves to a period; the fastest whole wave takes 45 days of a year. Slower ones alone blur when a crop is sown and
# cut, and what is not decoded is not kept.
DECODE_HALF_WAVES = (1.0, 2.0, 4.0, 8.0, 16.0)
DECODE_TIME_DIM = 1 + 2 * len(DECODE_HALF_WAVES)


def days_since_epoch(time_ms: Tensor) -> Tensor:
    """Float64 days of epoch milliseconds."""
    return (time_ms - EPOCH_MS).to(torch.float64) / DAY_MS


def _multiples(x: Tensor, factors: tuple[float, ...]) -> Tensor:
    """``(...)`` to ``(..., factors)``. The factors go along as numbers: a tensor made of them would be copied to the
    device, for which the host waits.
    """
    return torch.stack([x * factor for factor in factors], dim=-1)


def time_code(time_ms: Tensor) -> Tensor:
    """Sinusoids of instants, ``(...)`` int64 to ``(..., TIME_DIM)`` float32."""
    days = days_since_epoch(time_ms)
    phase = 2 * math.pi * _multiples(days, CYCLES_PER_DAY)
    return torch.cat([phase.sin(), phase.cos()], dim=-1).to(torch.float32)


def period_code(period_ms: Tensor) -> Tensor:
    """Start, end and duration of periods, ``(..., 2)`` int64 to ``(..., PERIOD_DIM)`` float32."""
    days = (period_ms[..., 1] - period_ms[..., 0]).to(torch.float64) / DAY_MS
    duration = torch.log(days.clamp_min(1e-3) / YEAR_DAYS).to(torch.float32)
    return torch.cat([time_code(period_ms).flatten(-2), duration[..., None]], dim=-1)


def relative_days(time_ms: Tensor, period_ms: Tensor) -> tuple[Tensor, Tensor]:
    """Where instants lie with respect to periods.

    Args:
        time_ms: ``(B, N)`` int64.
        period_ms: ``(B, P, 2)`` int64.

    Returns:
        Days since each period's start ``(B, P, N)`` and its length in days ``(B, P, 1)``, float32 (differences of
        int64 first, so that nothing is lost).
    """
    since = (time_ms[:, None, :] - period_ms[..., :1]).to(torch.float64) / DAY_MS
    length = (period_ms[..., 1:] - period_ms[..., :1]).to(torch.float64) / DAY_MS
    return since.to(torch.float32), length.clamp_min(1e-3).to(torch.float32)


def relative_code(since_days: Tensor, length_days: Tensor) -> Tensor:
    """Position in a period and distance outside it, ``(..., N)`` days to ``(..., N, RELATIVE_DIM)`` in [-1, 4]."""
    before = torch.log1p(torch.relu(-since_days) / 8)
    after = torch.log1p(torch.relu(since_days - length_days) / 8)
    position = (since_days / length_days).clamp(0, 1) * 2 - 1
    inside = ((since_days >= 0) & (since_days < length_days)).to(since_days.dtype)
    return torch.stack([position, inside, before.clamp_max(4), after.clamp_max(4)], dim=-1)


def decode_time_code(time_ms: Tensor, period_ms: Tensor) -> Tensor:
    """The instant to decode, relative to its valid period: ``(B,)`` and ``(B, 2)`` int64 to ``(B, DECODE_TIME_DIM)``.

    0 is the start, 1 the end (SPEC 2.2.6); instants outside are brought to the nearer edge. The first half wave tells
    the ends apart.
    """
    since = (time_ms - period_ms[:, 0]).to(torch.float64)
    length = (period_ms[:, 1] - period_ms[:, 0]).clamp_min(1).to(torch.float64)
    position = (since / length).clamp(0, 1)
    phase = math.pi * _multiples(position, DECODE_HALF_WAVES)
    return torch.cat([position[:, None] * 2 - 1, phase.sin(), phase.cos()], dim=-1).to(torch.float32)
