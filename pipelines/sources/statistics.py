"""Mean and spread of every band in model space: taken while ingesting, applied before the model sees a number.

Accumulation is exact to rounding (Chan, Golub and LeVeque 1979: pairwise update of count, mean and sum of squared
deviations in float64) and merges in any grouping, so that workers can count apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from pipelines.sources.base import Source

# SPEC 1.1: z-scores are clipped at six standard deviations.
CLIP = 6.0


@dataclass(frozen=True)
class BandStatistics:
    """Of one source, in the order of its bands.

    Attributes:
        bands: their names.
        count: ``(C,)`` measured pixels.
        mean: ``(C,)`` in model space; NaN where nothing was measured.
        std: ``(C,)`` population standard deviation.
    """

    bands: tuple[str, ...]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        """By band name; JSON has no NaN, so an unmeasured band has null."""
        return {
            band: {
                "count": int(self.count[index]),
                "mean": float(self.mean[index]) if self.count[index] else None,
                "std": float(self.std[index]) if self.count[index] else None,
            }
            for index, band in enumerate(self.bands)
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Mapping[str, float | int | None]]) -> BandStatistics:
        """The inverse of :meth:`to_dict`."""

        def numbers(name: str) -> list[float]:
            return [np.nan if band[name] is None else float(band[name]) for band in fields.values()]  # type: ignore[arg-type]

        count = np.array([int(band["count"] or 0) for band in fields.values()], np.int64)
        return cls(tuple(fields), count, np.array(numbers("mean")), np.array(numbers("std")))

    def select(self, bands: tuple[str, ...]) -> BandStatistics:
        """The statistics of some bands, in their order.

        Raises:
            ValueError: a band that was not counted.
        """
        for band in bands:
            if band not in self.bands:
                raise ValueError(f"no statistics of band {band!r}; there are {', '.join(self.bands)}: ingest again")
        index = [self.bands.index(band) for band in bands]
        return BandStatistics(bands, self.count[index], self.mean[index], self.std[index])


class Statistics(Mapping[str, BandStatistics]):
    """Band statistics by source name."""

    def __init__(self, by_source: Mapping[str, BandStatistics]) -> None:
        self._by_source = dict(sorted(by_source.items()))

    def __getitem__(self, name: str) -> BandStatistics:
        if name not in self._by_source:
            raise KeyError(f"no statistics of source {name!r}; there are {', '.join(self._by_source) or 'none'}")
        return self._by_source[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_source)

    def __len__(self) -> int:
        return len(self._by_source)

    def __contains__(self, name: object) -> bool:
        return name in self._by_source

    def to_json(self) -> str:
        """Stable text: equal statistics give equal bytes."""
        return json.dumps({name: self[name].to_dict() for name in self}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Statistics:
        """The inverse of :meth:`to_json`."""
        return cls({name: BandStatistics.from_dict(fields) for name, fields in json.loads(text).items()})

    def digest(self) -> str:
        """A short identity, for checkpoints and receipts."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]


@dataclass
class Accumulator:
    """Running count, mean and sum of squared deviations of one source's bands; mergeable."""

    bands: tuple[str, ...]
    count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    mean: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not self.count.size:
            size = len(self.bands)
            self.count, self.mean, self.squares = np.zeros(size, np.int64), np.zeros(size), np.zeros(size)

    def add(self, model_space: NDArray) -> None:
        """Counts the finite numbers of an array ``(..., C, H, W)`` (or ``(K, C)`` for points) of model space."""
        axis = 1 if model_space.ndim == 2 else model_space.ndim - 3
        for index in range(len(self.bands)):
            band = np.take(model_space, index, axis=axis)
            measured = band[np.isfinite(band)].astype(np.float64)
            if measured.size:
                mean = measured.mean()
                self._combine(index, measured.size, mean, float(np.square(measured - mean).sum()))

    def add_counted(self, index: int, model_space: NDArray[np.float64], times: NDArray[np.int64]) -> None:
        """Counts the finite ones of numbers ``(K,)`` of a band's model space, each as many times as it occurred."""
        finite = np.isfinite(model_space)
        x, times = model_space[finite], times[finite]
        if count := int(times.sum()):
            mean = float(times @ x) / count
            self._combine(index, count, mean, float(times @ np.square(x - mean)))

    def merge(self, other: Accumulator) -> None:
        """Adds what another accumulator counted.

        Raises:
            ValueError: it counted other bands.
        """
        if self.bands != other.bands:
            raise ValueError(f"cannot merge statistics of bands {self.bands} with those of {other.bands}")
        for index in range(len(self.bands)):
            self._combine(index, int(other.count[index]), float(other.mean[index]), float(other.squares[index]))

    def result(self) -> BandStatistics:
        """What was counted so far."""
        known = self.count > 0
        mean = np.where(known, self.mean, np.nan)
        variance = np.divide(self.squares, self.count, out=np.full(len(self.bands), np.nan), where=known)
        return BandStatistics(self.bands, self.count.copy(), mean, np.sqrt(variance))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able state, exact: Python writes the shortest decimal that reads back as the same float64."""
        return {
            "bands": list(self.bands),
            "count": self.count.tolist(),
            "mean": self.mean.tolist(),
            "squares": self.squares.tolist(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Accumulator:
        """The inverse of :meth:`to_dict`."""
        return cls(
            tuple(state["bands"]),
            np.array(state["count"], np.int64),
            np.array(state["mean"], np.float64),
            np.array(state["squares"], np.float64),
        )

    def _combine(self, index: int, count: int, mean: float, squares: float) -> None:
        if not count:
            return
        total = self.count[index] + count
        delta = mean - self.mean[index]
        self.squares[index] += squares + delta * delta * self.count[index] * count / total
        self.mean[index] += delta * count / total
        self.count[index] = total


def standardise(model_space: Any, mean: Any, std: Any) -> Any:
    """z-scores of model space ``(..., C, H, W)``, clipped to six; NaN stays NaN.

    Args:
        model_space: numpy or torch.
        mean: ``(C,)``, same library.
        std: ``(C,)``; a band that does not vary (0, NaN) gives 0.
    """
    xp = array_namespace(model_space)
    known = (std > 0) & xp.isfinite(mean)
    one = xp.ones_like(std)
    gain = xp.where(known, one / xp.where(known, std, one), xp.zeros_like(std))[:, None, None]
    centre = xp.where(known, mean, xp.zeros_like(mean))[:, None, None]
    return xp.clip((model_space - centre) * gain, -CLIP, CLIP)


def normalise(source: Source, statistics: BandStatistics, values: Any, scale: Any, offset: Any, nodata: float) -> Any:
    """Native numbers to what the model sees: model space, z-score, clipped to six; NaN where nothing was measured.

    Args:
        source: whose bands ``values`` has.
        statistics: of that source.
        values: ``(..., C, H, W)`` native dtype, numpy or torch, on any device.
        scale: ``(..., C)``.
        offset: ``(..., C)``.
        nodata: stored number that means "not measured".

    Returns:
        ``(..., C, H, W)`` float32.
    """
    chosen = statistics if statistics.bands == source.band_names else statistics.select(source.band_names)
    x = source.to_model_space(values, scale, offset, nodata)
    xp = array_namespace(x)
    place = {"device": x.device} if hasattr(x, "device") and x.device != "cpu" else {}
    mean = xp.asarray(chosen.mean.astype(np.float32), **place)
    std = xp.asarray(chosen.std.astype(np.float32), **place)
    return standardise(x, mean, std)
