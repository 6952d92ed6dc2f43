"""Statistics streamed shard by shard, against numpy over everything at once, each source by its own formula."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.sources import source
from pipelines.stages.sums import SequenceSums
from tests.stages.worlds import config, raster, sequence, sources_of

CONFIG = config()
SOURCES = {**sources_of(CONFIG), "landsat": source("landsat", ["red", "lwir11"]), "sentinel1": source("sentinel1")}


def optical(x):
    return np.log(np.maximum(x * 10_000, 0) + 1) / 10


def decibel(x):
    with np.errstate(divide="ignore", invalid="ignore"):
        y = 10 * np.log10(x)
    return np.where((y >= -30) & (y <= 10), y, np.nan)


# SPEC 1.2 and 1.3, written out in float64.
MODEL_SPACE = {
    "sentinel2": [optical, optical],
    "landsat": [optical, lambda x: np.where((x >= 100) & (x <= 400), x, np.nan)],
    "sentinel1": [decibel, decibel, decibel, decibel, np.deg2rad],
    "era5": [lambda x: x] * 12,
}


def measured(name, days, rng):
    """Frames as each archive stores them, with gaps, border noise and scales that differ by frame."""
    kind = SOURCES[name]
    shape = (1, 1) if name == "era5" else (24, 20)
    full = (len(days), len(kind.bands), *shape)
    if name in ("sentinel2", "landsat"):
        values = rng.integers(1, 12_000, full).astype(np.uint16)
        scale, offset = (
            np.full(full[:2], 1e-4),
            np.where(np.arange(len(days)) % 2, -0.1, 0.0)[:, None] * np.ones(full[1]),
        )
        if name == "landsat":
            values[:, 1] = rng.integers(0, 65_535, values[:, 1].shape)
            scale[:, 1], offset[:, 1] = 0.00341802, 149.0
    else:
        scale, offset = np.ones(full[:2]), np.zeros(full[:2])
        values = 10 ** rng.uniform(-4, 1.2, full) if name == "sentinel1" else rng.normal(100_000, 300, full)
        if name == "sentinel1":
            values[:, 4] = rng.uniform(29, 46, values[:, 4].shape)
        values = values.astype(kind.dtype)
    values[rng.random(full) < 0.2] = kind.nodata
    return replace(raster(kind, days, shape), values=values, scale=scale, offset=offset)


def test_streamed_statistics_are_the_direct_ones_after_each_sources_transform(monkeypatch):
    rng = np.random.default_rng(0)
    parts, whole = [], {name: [] for name in MODEL_SPACE}
    for index in range(7):
        days = tuple(range(10, 40 + 30 * index, 30))
        rasters = {name: measured(name, days, rng) for name in MODEL_SPACE}
        parts.append(replace(sequence(CONFIG, index), rasters=rasters))
        for name, frames in rasters.items():
            stored = frames.values.astype(np.float64)
            missing = np.isnan(stored) | (stored == SOURCES[name].nodata)
            physical = stored * frames.scale[:, :, None, None] + frames.offset[:, :, None, None]
            bands = [formula(physical[:, c]) for c, formula in enumerate(MODEL_SPACE[name])]
            whole[name].append(np.where(missing, np.nan, np.stack(bands, axis=1)))

    monkeypatch.setattr("pipelines.stages.sums.VALUES_AT_ONCE", 2000)  # of frames of 960 and more
    total = SequenceSums()
    for first in (0, 2, 3):  # shards of 2, 1 and 4 sequences, each counted apart and kept as JSON
        shard = SequenceSums()
        for part in parts[first : {0: 2, 2: 3, 3: 7}[first]]:
            shard.add(part, SOURCES)
        total.merge(SequenceSums.from_dict(shard.to_dict()))
    found = total.result()
    heights = np.concatenate([part.points["gedi"].values for part in parts]).astype(np.float64)
    assert found["gedi"].mean == pytest.approx(heights.mean(axis=0), rel=1e-6)
    assert set(found) == {*MODEL_SPACE, "gedi"}  # classes and texts have no mean
    for name, blocks in whole.items():
        for band in range(len(SOURCES[name].bands)):
            direct = np.concatenate([block[:, band].ravel() for block in blocks])
            direct = direct[np.isfinite(direct)]
            assert found[name].count[band] == direct.size
            assert found[name].mean[band] == pytest.approx(direct.mean(), rel=1e-6), (name, band)
            assert found[name].std[band] == pytest.approx(direct.std(), rel=1e-6), (name, band)


@pytest.mark.parametrize("brightest", [1002, 1020, 1200])
def test_statistics_of_dark_bands_keep_their_digits_though_an_offset_is_taken_off(brightest: int):
    kind, shape = SOURCES["sentinel2"], (24, 20)
    values = np.random.default_rng(1).integers(1001, brightest + 1, (3, 2, *shape)).astype(np.uint16)
    scale, offset = np.full((3, 2), 1e-4), np.full((3, 2), -0.1)
    frames = replace(raster(kind, (1, 2, 3), shape), values=values, scale=scale, offset=offset)
    sums = SequenceSums()
    sums.add(replace(sequence(CONFIG, 0), rasters={"sentinel2": frames}), {"sentinel2": kind})
    direct = optical(values * 1e-4 - 0.1)
    assert sums.result()["sentinel2"].mean == pytest.approx(direct.mean(axis=(0, 2, 3)), rel=1e-6)
    assert sums.result()["sentinel2"].std == pytest.approx(direct.std(axis=(0, 2, 3)), rel=1e-6)
