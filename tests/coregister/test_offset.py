"""Sentinel-2's offset from the catalog to the pixels: one ground through every producer, and what dark pixels say."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from pipelines.catalogs import normalise
from pipelines.coregister import read_block, read_frames, read_window
from pipelines.grid import Period, Window
from pipelines.sandbox import sentinel2
from pipelines.sandbox.layers import ZONES, layer_grids, write_layers
from pipelines.sandbox.optics import Atmosphere, through
from pipelines.sandbox.parameters import parameters_for
from pipelines.sandbox.schedule import passes
from pipelines.sources import source
from pipelines.sources.sentinel2 import ALL_BANDS
from tests.coregister import real

OPTICAL = source("sentinel2")
ALWAYS = Period.from_iso("2015-01-01", "2035-01-01")
FIELD = (0.04, 0.07, 0.05, 0.35, 0.2)
BEFORE, AFTER = "2099-01-01", "2000-01-01"


def items_of(folder):
    return [
        (json.loads(path.read_text()), str(path))
        for path in sorted((folder / "catalog" / sentinel2.COLLECTION / "items").glob("*.json"))
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Items of the same passes over the same ground, processed before baseline 04.00 and after it."""
    p = parameters_for("tiny", 3)
    folder = tmp_path_factory.mktemp("pair")
    for name in layer_grids(p):
        if name.startswith(f"sentinel2_{ZONES[0]}"):
            write_layers(p, name, folder / "layers")
    summer = [one for one in passes(p, "sentinel2") if one.time_ms % 31_557_600_000 // 86_400_000 in range(120, 270)]
    for label, since in (("before", BEFORE), ("after", AFTER)):
        for one in summer:
            sentinel2.write_pass(replace(p, baseline_0400=since), folder / label, folder / "layers", one, ZONES[0])
    return items_of(folder / "before"), items_of(folder / "after")


def scene(item, base, **properties):
    """The scene of an item, some of its properties replaced."""
    return normalise({**item, "properties": {**item["properties"], **properties}}, OPTICAL, "cat", base=base)


def window_over(scenes) -> Window:
    assets = [one.assets["red"] for one in scenes]
    assert all(asset.transform and asset.shape and asset.epsg for asset in assets)
    left, top = max(a.transform[2] for a in assets), min(a.transform[5] for a in assets)
    return Window(assets[0].epsg, int(left) + 300, int(top) - 300, 120, 110)


def test_one_ground_shows_no_step_at_baseline_0400(pair):
    """Digital numbers differ by 1000 and reflectance by nothing, whoever served them and whatever the item states."""
    before, after = pair
    # As Earth Search v1 serves its own copies: numbers of before, items of after.
    applied = {"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": True}
    seen, stored = [], []
    for (old, old_path), (new, new_path) in zip(before, after, strict=True):
        assert old["id"] == new["id"] and old["properties"]["s2:processing_baseline"] == "03.01"
        assert new["properties"]["s2:processing_baseline"] == "04.00"
        copy = json.loads(json.dumps(old))
        for band in OPTICAL.band_names:
            copy["assets"][band]["raster:bands"][0]["offset"] = -0.1
        # As Planetary Computer serves them: nothing is stated but the baseline.
        plain_old, plain_new = json.loads(json.dumps([old, new]))
        for item in (plain_old, plain_new):
            del item["properties"]["earthsearch:boa_offset_applied"]
            for asset in item["assets"].values():
                del asset["raster:bands"]
        variants = [
            scene(old, old_path),
            scene(new, new_path),
            scene(copy, old_path, **applied),
            scene(plain_old, old_path),
            scene(plain_new, new_path),
        ]
        box = window_over(variants)
        read = [read_window([one], box, OPTICAL) for one in variants]
        if not read[0].sizes["time"]:
            assert not read[1].sizes["time"]
            continue
        values = [d["values"].to_numpy().astype(np.float64) for d in read]
        measured = [v != 0 for v in values]
        np.testing.assert_array_equal(measured[0], measured[1])
        physical = [
            v * d["scale"].to_numpy()[:, :, None, None] + d["offset"].to_numpy()[:, :, None, None]
            for v, d in zip(values, read, strict=True)
        ]
        for same, other in ((0, 2), (0, 3), (1, 4)):
            np.testing.assert_array_equal(physical[same], physical[other])
        # The old product stores no reflectance below 1e-4; all grids here are copied, so that rounding is all the rest.
        told = measured[0] & (values[0] > 1)
        seen.append(np.abs(physical[0] - physical[1])[told])
        stored.append((values[1] - values[0])[told])
        model = [
            OPTICAL.to_model_space(d["values"].to_numpy(), d["scale"].to_numpy(), d["offset"].to_numpy(), 0)
            for d in read
        ]
        assert np.nanmax(np.abs(model[0] - model[1])[told]) < 0.1 * np.log1p(1)
    differences = np.concatenate(seen)
    assert differences.size > 100_000 and differences.max() < 1.5e-4
    assert (np.concatenate(stored) == 1000).mean() > 0.99


def told(scenes, offset=None):
    """How many scenes with clear ground there are, and what is said of them with an offset other than the decided."""
    if offset is not None:
        scenes = [
            replace(one, assets={band: replace(a, offset=offset) for band, a in one.assets.items()}) for one in scenes
        ]
    clear, doubts, refused = 0, [], []
    for one in scenes:
        box = window_over([one])
        frames, failures = read_frames([one], box, OPTICAL, on_doubt=doubts.append)
        refused += failures
        clear += bool(failures) or (frames is not None and (frames.weight > 0).mean() > 0.5)
    return clear, doubts, refused


def test_dark_pixels_of_the_sandbox_bear_out_the_offset_that_was_decided(pair):
    for items in pair:
        clear, doubts, refused = told([scene(*one) for one in items])
        assert clear >= 3 and not doubts and not refused


def test_an_offset_that_is_still_in_the_numbers_is_reported_by_name(pair, caplog):
    """A catalog that calls the offset applied where it is not."""
    wrong = [scene(*one, **{"earthsearch:boa_offset_applied": True}) for one in pair[1]]
    assert {asset.offset for one in wrong for asset in one.assets.values()} == {0.0}
    clear, doubts, refused = told(wrong)
    assert not refused and len(doubts) >= clear >= 3
    assert {doubt.scene_id for doubt in doubts} <= {one.scene_id for one in wrong}
    assert all("may still be in the numbers" in doubt.reason for doubt in doubts)
    named = next(one for one in wrong if one.scene_id == doubts[0].scene_id)
    box = window_over([named])
    block = read_block({"sentinel2": [named]}, box, ALWAYS, [OPTICAL])
    assert [doubt.scene_id for doubt in block.doubts] == [named.scene_id] and not block.failures
    with caplog.at_level(logging.WARNING):
        dataset = read_window([named], box, OPTICAL)
    assert named.scene_id in caplog.text and "may still be in the numbers" in caplog.text
    # Reported, not mended: numbers and offset are what they were said to be.
    assert (dataset["offset"] == 0).all() and int(dataset["values"].max()) > 1000
    np.testing.assert_array_equal(dataset["values"][0], block.rasters["sentinel2"].values[0])


def test_an_offset_that_would_be_added_twice_is_refused_by_name(pair):
    """A catalog that states -0.1 for numbers that have it in them."""
    clear, doubts, refused = told([scene(*one) for one in pair[0]], offset=-0.1)
    assert not doubts and clear >= 3 and len(refused) >= clear - 1
    assert all(one.kind == "unusable" and one.scene_id in one.reason for one in refused)


@pytest.mark.parametrize("haze", [0.0, 0.1, 0.5])
def test_haze_over_water_is_not_taken_for_an_offset(haze):
    """Fields and a lake under haze of the sandbox's colour, without an offset and with one left in the numbers."""
    rng = np.random.default_rng(0)
    names = ("blue", "green", "red", "nir", "swir16")
    assert OPTICAL.band_names == names
    lake = np.zeros((128, 128), bool)
    lake[:20] = True
    air = Atmosphere(*(np.full(lake.shape, value, np.float32) for value in (0, 0, haze, 0)))
    truth = [np.where(lake, water, field) for water, field in zip((0.03, 0.03, 0.02, 0.01, 0.0), FIELD, strict=True)]
    seen = [
        through((band * rng.uniform(0.9, 1.1, lake.shape)).astype(np.float32), air, ALL_BANDS.index(name))
        for name, band in zip(names, truth, strict=True)
    ]
    values = np.rint(10_000 * np.stack(seen)).clip(1).astype(np.uint16)
    scale, offset, clear = np.full(5, 1e-4), np.zeros(5), np.ones(lake.shape, np.float32)
    assert OPTICAL.doubt(OPTICAL, values, clear, scale, offset) is None
    assert (values[:3] > 1000).all() == (haze == 0.5)  # thick haze looks like an offset in the visible bands alone
    if haze < 0.5:
        assert "may still be in the numbers" in (OPTICAL.doubt(OPTICAL, values + 1000, clear, scale, offset) or "")
    assert bool(OPTICAL.contradiction(values, scale, offset - 0.1)) == (values < 500).any()


@pytest.mark.real
@pytest.mark.parametrize("patch", ["0000280849BAC91C", "GFMAP-A", "GFMAP-B"])
def test_dark_pixels_of_real_scenes_bear_out_the_offset_that_was_decided(patch):
    """Belgium before 04.00, and after it with the offset removed by the backend. Haze may raise one doubt in 72."""
    scenes = real.scenes("sentinel-2-l2a", patch)
    asset = scenes[0].assets["red"]
    box = Window(asset.epsg, int(asset.transform[2]) // 10 * 10, int(asset.transform[5]) // 10 * 10, 46, 52)
    doubts: list = []
    frames, failures = read_frames(scenes, box, OPTICAL, on_doubt=doubts.append)
    assert frames is not None and not failures and len(doubts) <= len(scenes) // 70
    clear = {one for one, w in zip(frames.scene_ids, frames.weight, strict=True) if (w[::4, ::4] > 0).sum() >= 64}
    assert len(clear) >= (40 if patch.startswith("0") else 2)


@pytest.mark.real
def test_real_scenes_with_the_wrong_offset_are_told(tmp_path):
    """The same pixels with the offset left in them, and with an offset stated that is not in them."""
    import rasterio

    scenes = real.scenes("sentinel-2-l2a", "0000280849BAC91C")[:40]
    asset = scenes[0].assets["red"]
    box = Window(asset.epsg, int(asset.transform[2]), int(asset.transform[5]), 64, 64)
    good, _ = read_frames(scenes, box, OPTICAL)
    clear = {one for one, w in zip(good.scene_ids, good.weight, strict=True) if (w > 0).mean() > 0.9}
    assert len(clear) > 10
    raised = []
    for one in scenes:
        assets = dict(one.assets)
        for band in OPTICAL.band_names:
            with rasterio.open(assets[band].href) as file:
                values, profile = file.read(1), file.profile
            path = tmp_path / one.scene_id / f"{band}.tif"
            path.parent.mkdir(exist_ok=True)
            with rasterio.open(path, "w", **profile) as file:
                file.write(np.where(values == 0, 0, values + 1000).astype(np.uint16), 1)
            assets[band] = replace(assets[band], href=str(path))
        raised.append(replace(one, assets=assets))
    doubts: list = []
    read_frames(raised, box, OPTICAL, on_doubt=doubts.append)
    assert clear <= {doubt.scene_id for doubt in doubts}
    minus = [replace(one, assets={band: replace(a, offset=-0.1) for band, a in one.assets.items()}) for one in scenes]
    _, failures = read_frames(minus, box, OPTICAL)
    assert len(clear - {failure.scene_id for failure in failures}) <= 0.1 * len(clear)
