"""Which frames of a sequence are encoded, which are held out as targets, and over which periods. numpy only.

One draw a training step: valid periods first, then per source one target frame that intersects its period and is taken
out of the inputs, then a subsample of the frames that are left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

DAY_MS = 86_400_000
MIN_PERIOD_MS = 4 * DAY_MS  # paper: valid periods are longer than four days

# Paper: 103 frames a sequence.
PAPER_MAX_FRAMES: Mapping[str, int] = {"sentinel2": 65, "sentinel1": 17, "landsat": 21}

IMAGING, REST = "imaging", "rest"


@dataclass(frozen=True)
class Draw:
    """One draw from a sequence.

    Attributes:
        frames: per input source the indices of the encoded frames, ascending; possibly none.
        target: per source the indices of its held-out frames, ascending; a source without a candidate is missing.
        periods: by name ``(start_ms, end_ms)``.
        period_of: which of them each target source, and every name in ``also``, uses.
    """

    frames: dict[str, NDArray[np.int64]]
    target: dict[str, NDArray[np.int64]]
    periods: dict[str, tuple[int, int]]
    period_of: dict[str, str]


def group_periods(
    sources: Iterable[str], inputs: Iterable[str], grouping: Literal["shared", "each"] = "shared"
) -> dict[str, str]:
    """Which sources share a valid period.

    Args:
        sources: all names that need a period ("text" among them, if wanted).
        inputs: those that are encoded.
        grouping: "shared": one period for the imaging sources, another for the rest, so that two summaries serve all
            decoders; "each": one for each, as in the paper.

    Returns:
        Name of the period by source.
    """
    encoded = set(inputs)
    if grouping == "each":
        return {name: name for name in sources}
    if grouping == "shared":
        return {name: IMAGING if name in encoded else REST for name in sources}
    raise ValueError(f"unknown period grouping {grouping!r}; use 'shared' or 'each'")


def random_period(support: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """A window of more than four days within the support (all of it if shorter): length first, then place."""
    start, end = support
    span = end - start
    if span <= MIN_PERIOD_MS:
        return start, end
    length = int(rng.integers(MIN_PERIOD_MS + 1, span + 1))
    begin = start + int(rng.integers(0, span - length + 1))
    return begin, begin + length


def draw_sample(
    times: Mapping[str, NDArray[np.int64]],
    support: tuple[int, int],
    rng: np.random.Generator,
    *,
    inputs: Iterable[str],
    max_frames: Mapping[str, int] | None = None,
    valid: Mapping[str, NDArray[np.int64]] | None = None,
    usable: Mapping[str, NDArray[np.bool_]] | None = None,
    grouping: Literal["shared", "each"] = "shared",
    whole_period: float = 0.0,
    also: Iterable[str] = (),
    max_targets: int = 1,
) -> Draw:
    """Draw one training sample. Equal arguments and generator states give equal draws.

    Args:
        times: per source ``(N,)`` epoch ms of its frames; N may be 0.
        support: ``(start, end)`` epoch ms of the sequence.
        rng: of all draws.
        inputs: names of the encoded sources.
        max_frames: how many frames of each input source are encoded at most; default 65 Sentinel-2, 17 Sentinel-1,
            21 Landsat.
        valid: per source ``(N, 2)`` half-open validity, for sources that are more than instants (a month, a year,
            always); default ``[time, time + 1)``.
        usable: per source ``(N,)`` bool, frames that may be targets (something in them counts); default all.
        grouping: of :func:`group_periods`.
        whole_period: probability that a period is the whole support.
        also: further names that need a period of their group (such as "text").
        max_targets: how many frames of each source are held out at most (paper: 1); beyond the first never more than
            a quarter of an input source's frames.

    Returns:
        The draw. At least one input frame stays wherever there is any: the only frame of a sequence is no target.

    Raises:
        ValueError: for an empty support, or a source whose arrays do not fit each other.
    """
    if support[1] <= support[0]:
        raise ValueError(f"support ends ({support[1]}) before it starts ({support[0]})")
    limits = PAPER_MAX_FRAMES if max_frames is None else max_frames
    encoded = sorted(set(inputs))
    names = sorted(times)  # never the caller's order: it would change the draw
    validity: dict[str, NDArray[np.int64]] = {}
    for name in names:
        count = len(times[name])
        bounds = valid.get(name) if valid is not None else None
        if bounds is None:
            bounds = np.stack([times[name], np.asarray(times[name]) + 1], axis=-1).astype(np.int64).reshape(count, 2)
        if bounds.shape != (count, 2):
            raise ValueError(f"{name}: {count} times but validity of shape {bounds.shape}")
        if usable is not None and name in usable and usable[name].shape != (count,):
            raise ValueError(f"{name}: {count} times but usable of shape {usable[name].shape}")
        validity[name] = bounds

    group_of = group_periods([*names, *sorted(also)], encoded, grouping)
    periods: dict[str, tuple[int, int]] = {}
    candidates: dict[str, NDArray[np.int64]] = {}
    for group in sorted(set(group_of.values())):
        members = [name for name in names if group_of[name] == group]
        period = support if rng.random() < whole_period else random_period(support, rng)
        for attempt in (period, support):  # a period in which nobody measured anything teaches nothing
            found = {
                name: _candidates(validity[name], attempt, None if usable is None else usable.get(name))
                for name in members
            }
            if not members or any(len(index) for index in found.values()):
                period = attempt
                break
        periods[group] = period
        candidates.update(found)

    target = {}
    for name, index in sorted(candidates.items()):
        if len(index):
            limit = max(min(max_targets, len(times[name]) // 4), 1) if name in encoded else max_targets
            target[name] = np.sort(rng.choice(index, min(limit, len(index)), replace=False))
    if sum(len(times[name]) - len(target.get(name, ())) for name in encoded if name in times) == 0:
        for name in encoded:
            if name in target:  # each input source has one frame: the first to be let off stays an input
                del target[name]
                break
    frames: dict[str, NDArray[np.int64]] = {}
    for name in encoded:
        if name not in times:
            continue
        left = np.arange(len(times[name]), dtype=np.int64)
        left = np.setdiff1d(left, target.get(name, ()))
        limit = limits.get(name, len(left))
        frames[name] = np.sort(rng.choice(left, limit, replace=False)) if len(left) > limit else left
    period_of = {name: group_of[name] for name in [*target, *sorted(also)]}
    used = set(period_of.values())
    return Draw(frames, target, {name: period for name, period in periods.items() if name in used}, period_of)


def _candidates(
    validity: NDArray[np.int64], period: tuple[int, int], usable: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    meets = (validity[:, 0] < period[1]) & (validity[:, 1] > period[0])
    return np.flatnonzero(meets if usable is None else meets & usable)
