"""Statistics of sequences, streamed: count, mean and spread of every band after its source's own transform."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.sequence import RasterFrames, Sequence
from pipelines.sources import Source
from pipelines.sources.base import Kind
from pipelines.sources.statistics import Accumulator, Statistics

VALUES_AT_ONCE = 2**20  # in double precision some 30 MB with all that is made of them


class SequenceSums:
    """Sums by source; those of several shards merge into those of all.

    Class codes and texts have no mean; their sources are left out.
    """

    def __init__(self, by_source: Mapping[str, Accumulator] | None = None) -> None:
        self.by_source = dict(by_source or {})

    def add(self, sequence: Sequence, sources: Mapping[str, Source]) -> None:
        """Count everything measured in one sequence."""
        for name, source in sources.items():
            if source.kind in (Kind.CLASSES, Kind.TEXT):
                continue
            sums = self.by_source.setdefault(name, Accumulator(source.band_names))
            if name in sequence.rasters:
                _add(sums, source, sequence.rasters[name])
            elif name in sequence.points:
                values = sequence.points[name].values
                one, zero = np.ones(values.shape, np.float32), np.zeros(values.shape, np.float32)
                sums.add(source.to_model_space(values[:, :, None, None], one, zero, float("nan"), exact=True))

    def merge(self, other: SequenceSums) -> None:
        """Add another's counts to these."""
        for name, sums in other.by_source.items():
            if name in self.by_source:
                self.by_source[name].merge(sums)
            else:
                self.by_source[name] = sums

    def result(self) -> Statistics:
        """Means and spreads; a source of which nothing was seen is left out."""
        return Statistics({name: sums.result() for name, sums in sorted(self.by_source.items()) if sums.count.any()})

    def to_dict(self) -> dict[str, Any]:
        return {name: sums.to_dict() for name, sums in sorted(self.by_source.items())}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> SequenceSums:
        return cls({name: Accumulator.from_dict(sums) for name, sums in state.items()})


def _add(sums: Accumulator, source: Source, raster: RasterFrames) -> None:
    """Counts frames, some at a time."""
    if raster.values.dtype in (np.uint8, np.uint16):
        _add_by_number(sums, source, raster)
        return
    step = max(1, VALUES_AT_ONCE // max(raster.values[:1].size, 1))
    for start in range(0, len(raster.values), step):
        part = slice(start, start + step)
        sums.add(
            source.to_model_space(
                raster.values[part], raster.scale[part], raster.offset[part], raster.nodata, exact=True
            )
        )


def _add_by_number(sums: Accumulator, source: Source, raster: RasterFrames) -> None:
    """Counts frames of whole numbers by the number: each that occurs is transformed once, in place of every pixel."""
    numbers = np.iinfo(raster.values.dtype).max + 1
    step = max(1, VALUES_AT_ONCE // max(raster.values[:1, 0].size, 1))
    for index, band in enumerate(source.bands):
        alone = source.with_bands([band.name])
        scaling = np.stack([raster.scale[:, index], raster.offset[:, index]], axis=1)
        for scale, offset in np.unique(scaling[~np.isnan(scaling).any(axis=1)], axis=0):
            frames = np.flatnonzero((scaling == (scale, offset)).all(axis=1))
            times = np.zeros(numbers, np.int64)
            for start in range(0, len(frames), step):
                times += np.bincount(raster.values[frames[start : start + step], index].ravel(), minlength=numbers)
            stored = np.flatnonzero(times)
            x = alone.to_model_space(
                stored.astype(raster.values.dtype)[None, None], scale[None], offset[None], raster.nodata, exact=True
            )
            sums.add_counted(index, x.ravel(), times[stored])
