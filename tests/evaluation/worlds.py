"""Synthetic sequences with a known law, for the tests of the baselines."""

import numpy as np

from pipelines.grid import DAY_MS, Period, Window
from pipelines.sequence import RasterFrames, Sequence
from pipelines.sources.base import Band, Kind, Source, Transform

YEAR = Period.calendar_year(2021)
OPTICAL = Source("sentinel2", Kind.FRAMES, (Band("red", "1"), Band("nir", "1")), "uint16", 0, is_input=True)
RADAR = Source(
    "sentinel1",
    Kind.FRAMES,
    (Band("vv", "power", Transform.DECIBEL), Band("angle", "degree")),
    "float32",
    -32768.0,
    is_input=True,
)
TERRAIN = Source("elevation", Kind.STATIC, (Band("elevation", "metre"), Band("slope_sin", "1")), "float32", -32768.0)
SOURCES = {"sentinel2": OPTICAL, "sentinel1": RADAR, "elevation": TERRAIN}


def frames(values, days, nodata, weight=None, scale=1.0, offset=0.0):
    count, bands, height, width = values.shape
    time = YEAR.start_ms + np.round(np.asarray(days) * DAY_MS).astype(np.int64)
    return RasterFrames(
        values,
        nodata,
        np.full((count, height, width), 255, np.uint8) if weight is None else weight,
        time,
        np.stack([time, time + 1], 1),
        np.full((count, bands), scale),
        np.full((count, bands), offset),
        np.zeros((count, 0), np.float32),
        tuple(str(n) for n in range(count)),
    )


def sequence(rasters, side=8):
    return Sequence("s", Window(32631, 500_000, 5_000_000, side, side), YEAR, "train", rasters)
