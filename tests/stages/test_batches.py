"""From a sequence to a batch: the right pixels at the right places, and never the target among the inputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.grid import DAY_MS
from pipelines.sources.statistics import BandStatistics, Statistics
from pipelines.stages.batches import collate, draw_for, to_batch
from tests.stages.worlds import CLASSES, YEAR, config, sequence, sources_of

CONFIG = config()
SOURCES = sources_of(CONFIG)


def drawn(whole, seed, settings=CONFIG):
    """A sample: the sequence with the drawn frames decoded, the draw, the generator of its crop."""
    rng = np.random.default_rng(seed)
    draw = draw_for(whole, SOURCES, settings.train, rng)
    rasters = {}
    for name, raster in whole.rasters.items():
        index = draw.frames[name]
        parts = {
            field: getattr(raster, field)[index]
            for field in ("values", "weight", "time_ms", "valid_ms", "scale", "offset", "geometry")
        }
        rasters[name] = replace(raster, **parts, scene_ids=tuple(raster.scene_ids[i] for i in index))
    return replace(whole, rasters=rasters), draw, rng


def batch_of(seed=0, settings=CONFIG, **options):
    samples = [drawn(sequence(settings, index, **options), [seed, index], settings) for index in range(3)]
    return collate(samples, SOURCES, settings.train), samples


def place(values):
    """Frame, row and column that a pixel of :func:`tests.stages.worlds.raster` says it is from."""
    number = np.asarray(values, np.int64) - 1
    return number // 2000, number % 2000 // 40, number % 40


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_holds_one_square_of_each_sequence_in_all_sources(seed):
    batch, samples = batch_of(seed)
    optical, target = batch.inputs["sentinel2"], batch.targets["sentinel2"]
    assert optical.values.dtype == np.uint16 and optical.values.shape[0] == 3
    for index, (part, draw, _) in enumerate(samples):
        chosen = draw.draw.frames["sentinel2"]
        assert optical.present[index].tolist() == [True] * len(chosen) + [False] * (
            optical.present.shape[1] - len(chosen)
        )
        frame, row, col = place(optical.values[index, : len(chosen)])
        assert (frame == chosen[:, None, None, None]).all()
        top, left = row.min(), col.min()
        assert (row == top + np.arange(16)[:, None]).all() and (col == left + np.arange(16)).all()
        assert 0 <= top <= 16 and 0 <= left <= 16
        # scale and offset of worlds.raster are 1 + frame and - frame
        assert (optical.scale[index, : len(chosen)] == 1 + chosen[:, None]).all()
        assert (optical.time_ms[index, : len(chosen)] == part.rasters["sentinel2"].time_ms[: len(chosen)]).all()

        frame, row, col = place(target.values[index])
        assert (frame == draw.draw.target["sentinel2"]).all()
        assert (row == top + np.arange(16)[:, None]).all() and (col == left + np.arange(16)).all()
        assert (target.offset[index] == -draw.draw.target["sentinel2"]).all()

        heights = batch.targets["gedi"]
        found = np.argwhere(heights.weight[index] > 0)
        expected = [(r - top, r - left) for r in range(0, 32, 8) if top <= r < top + 16 and left <= r < left + 16]
        assert [tuple(at) for at in found] == expected
        for r, c in expected:
            assert (heights.values[index, :, r, c] == r + top + 0.5).all()


def test_several_targets_of_a_sequence_stand_side_by_side():
    settings = config(train={"max_targets": 3, "whole_period": 1.0})
    days = {0: tuple(range(10, 130, 10)), 1: tuple(range(10, 50, 10)), 2: ()}  # 12, 4 and no Sentinel-2 frames
    samples = [drawn(sequence(settings, i, s2=s2), [0, i], settings) for i, s2 in days.items()]
    target = collate(samples, SOURCES, settings.train).targets["sentinel2"]
    assert target.values.shape == (9, 2, 16, 16)
    for index, expected in ((0, 3), (1, 1), (2, 0)):  # at most a quarter of the frames
        _, draw, _ = samples[index]
        rows, frames = slice(3 * index, 3 * index + expected), draw.draw.target.get("sentinel2", [])
        assert len(frames) == expected
        assert (place(target.values[rows])[0] == np.reshape(frames, (-1, 1, 1, 1))).all()
        assert target.time_ms[rows].tolist() == (YEAR.start_ms + np.array(days[index])[frames] * DAY_MS).tolist()
        assert (target.weight[rows] == 1).all() and (target.weight[3 * index + expected : 3 * index + 3] == 0).all()
        assert (target.offset[rows] == -np.reshape(frames, (-1, 1))).all()


@pytest.mark.parametrize("seed", range(30))
def test_a_target_is_never_among_the_inputs(seed):
    batch, _ = batch_of(seed)
    for name in ("sentinel2", "sentinel1"):
        inputs = batch.inputs[name]
        for index in range(3):
            assert batch.targets[name].time_ms[index] not in inputs.time_ms[index][inputs.present[index]]


def test_no_more_frames_than_configured_are_encoded():
    for seed in range(5):
        batch, _ = batch_of(seed)
        assert batch.inputs["sentinel2"].values.shape[1] == 3
        times = batch.inputs["sentinel2"].time_ms
        assert (np.diff(times, axis=1) > 0).all()


def weighted(whole, weight):
    """The sequence with other weights ``(N, H, W)`` of its Sentinel-2 frames."""
    optical = whole.rasters["sentinel2"]
    frames = replace(optical, weight=np.broadcast_to(weight, optical.weight.shape).astype(np.uint8))
    return replace(whole, rasters={**whole.rasters, "sentinel2": frames})


def test_a_frame_of_which_no_pixel_counts_is_encoded_and_never_a_target():
    settings = config(train={"max_targets": 2, "whole_period": 1.0})
    whole = sequence(settings, s2=range(10, 210, 10))  # 20 frames
    weight = np.zeros((20, 32, 32))
    weight[[1, 2]] = 255
    weight[0, 5, 7] = 1  # one pixel, and that hardly
    draws = [drawn(weighted(whole, weight), seed, settings)[1].draw for seed in range(80)]
    assert {index for draw in draws for index in draw.target["sentinel2"].tolist()} == {0, 1, 2}
    assert {index for draw in draws for index in draw.frames["sentinel2"].tolist()} == set(range(20))
    nothing = drawn(weighted(whole, 0), 0, settings)[1].draw
    assert "sentinel2" not in nothing.target and len(nothing.frames["sentinel2"]) == 3
    assert "sentinel1" in nothing.target


def test_weights_decide_nothing_where_every_frame_has_some():
    whole = sequence(CONFIG)
    thin = np.zeros((5, 32, 32))
    thin[:, 3, 4] = 1
    for seed in range(20):
        full, other = (drawn(x, seed)[1].draw for x in (whole, weighted(whole, thin)))
        assert full.periods == other.periods
        for name in ("sentinel2", "sentinel1"):
            assert full.target[name].tolist() == other.target[name].tolist()
            assert full.frames[name].tolist() == other.frames[name].tolist()


def test_the_only_frame_of_a_sequence_stays_an_input():
    whole = sequence(CONFIG, s2=(100,), s1=())
    for seed in range(10):
        raw = collate([drawn(whole, seed)], SOURCES, CONFIG.train)
        assert raw.inputs["sentinel2"].present.tolist() == [[True]]
        assert "sentinel2" not in raw.targets


def test_a_sequence_smaller_than_the_crop_is_padded_with_nothing():
    settings = config(train={"crop_px": 48})
    batch, _ = batch_of(0, settings)
    optical, target = batch.inputs["sentinel2"], batch.targets["sentinel2"]
    assert optical.values.shape[-2:] == (48, 48)
    outside = np.ones((48, 48), bool)
    outside[:32, :32] = False
    assert (optical.values[..., outside] == SOURCES["sentinel2"].nodata).all()
    assert (batch.inputs["sentinel1"].values[..., outside] == SOURCES["sentinel1"].nodata).all()
    assert (target.weight[:, outside] == 0).all() and (target.weight[:, ~outside] == 1).all()
    assert (batch.targets["landcover"].weight[:, outside] == 0).all()


def test_one_straight_line_is_blank_in_all_radar_inputs_of_a_sequence():
    nodata = SOURCES["sentinel1"].nodata
    settings = config(train={"crop_px": 32})
    widths, crossed = [], 0
    for seed in range(20):
        batch, _ = batch_of(seed, settings)
        radar = batch.inputs["sentinel1"]
        for index in range(3):
            blank = radar.values[index][radar.present[index]] == nodata
            assert (blank == blank[0, 0]).all()  # the same line in every frame and band
            rows, cols = np.nonzero(blank[0, 0])
            if len(rows) >= 6:
                crossed += 1
                points = np.stack([rows, cols]).T - np.array([rows.mean(), cols.mean()])
                _, _, axes = np.linalg.svd(points, full_matrices=False)
                widths.append(np.ptp(points @ axes[1]))
        assert (batch.targets["sentinel1"].values != nodata).all()
        assert (batch.inputs["sentinel2"].values[batch.inputs["sentinel2"].present] != 0).all()
    assert crossed > 30  # of 60; others only touch a corner
    assert max(widths) < 3.5  # a line of at most 2 px, seen on pixel centres


def statistics():
    def of(source):
        count = len(source.bands)
        return BandStatistics(source.band_names, np.full(count, 100), np.full(count, 1.0), np.full(count, 2.0))

    return Statistics({name: of(SOURCES[name]) for name in ("sentinel2", "sentinel1", "era5", "gedi")})


def test_class_codes_become_indices_and_unknown_codes_weigh_nothing():
    settings = config(train={"crop_px": 32})
    raw, samples = batch_of(0, settings)
    batch = to_batch(raw, SOURCES, statistics(), torch.device("cpu"))
    target = batch.targets["landcover"]
    codes = np.repeat([1, 4, 9, 0], 8)
    expected = [sorted(CLASSES).index(code) if code in CLASSES else -1 for code in codes]
    assert (target.values[0].numpy() == np.array(expected)[:, None]).all()
    weight = target.weight[0].numpy()
    assert (weight[:24] > 0).all() and (weight[24:] == 0).all()

    whole = samples[0][0].rasters["landcover"]
    strange = replace(whole, values=np.full_like(whole.values, 77))
    sample = (replace(samples[0][0], rasters={**samples[0][0].rasters, "landcover": strange}), *samples[0][1:])
    target = to_batch(collate([sample], SOURCES, settings.train), SOURCES, statistics(), torch.device("cpu")).targets
    assert (target["landcover"].weight == 0).all()


def test_on_the_device_inputs_are_normalised_by_frame_and_what_was_not_measured_is_marked():
    settings = config(train={"crop_px": 48})
    raw, samples = batch_of(1, settings)
    batch = to_batch(raw, SOURCES, statistics(), torch.device("cpu"))
    pixels = batch.frames.pixels["sentinel2"]
    assert pixels.dtype == torch.float32
    native, frame = raw.inputs["sentinel2"], samples[0][1].draw.frames["sentinel2"]
    physical = native.values[0, 1, :, :32, :32].astype(np.float64) * (1 + frame[1]) - frame[1]
    spaced = np.log1p(physical * SOURCES["sentinel2"].bands[0].factor) / 10
    assert pixels[0, 1, :, :32, :32].numpy() == pytest.approx((spaced - 1) / 2, rel=1e-4)
    assert not torch.isfinite(pixels[0, 1, :, 32:]).any()
    assert (batch.frames.present["sentinel2"].numpy() == native.present).all()
    assert batch.support_ms.tolist() == [[YEAR.start_ms, YEAR.end_ms]] * 3
    assert len(set(batch.site.tolist())) == 3


def test_texts_lie_within_the_crop_and_are_met_more_often_than_by_chance():
    met = 0
    for seed in range(20):
        batch, _ = batch_of(seed)
        if batch.text is None:
            continue
        optical = batch.inputs["sentinel2"]
        for index in np.flatnonzero(batch.text.present):
            _, row, col = place(optical.values[index, 0])
            at = batch.text.row[index] + row.min(), batch.text.col[index] + col.min()
            assert at == ((3, 4) if batch.text.vector[index, 0] else (20, 21))
            met += 1
    assert met > 30  # of 60; every second crop is laid over a text


def test_without_texts_there_is_no_text_target():
    batch, _ = batch_of(0, texts=False)
    assert batch.text is None


def test_without_holding_out_the_targets_are_among_the_inputs():
    open_book = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"hold_out": False})})
    for seed in range(4):
        held, shown = (drawn(sequence(CONFIG, 0), seed, settings)[1].draw for settings in (CONFIG, open_book))
        target = held.target["sentinel2"]
        assert not np.isin(target, held.frames["sentinel2"]).any()
        assert (shown.target["sentinel2"] == target).all()
        assert set(shown.frames["sentinel2"]) == {*held.frames["sentinel2"], *target}
    batch, samples = batch_of(settings=open_book)
    for index, (_, draw, _) in enumerate(samples):
        frame = place(batch.targets["sentinel2"].values[index])[0]
        assert (frame == draw.draw.target["sentinel2"][0]).all()
