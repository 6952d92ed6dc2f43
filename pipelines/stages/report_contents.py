"""What the report of a run shows: facts, pictures and maps, from storage."""

from __future__ import annotations

import os
import platform

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.config import Config
from pipelines.evaluation.figures import composite_rgb
from pipelines.evaluation.maps import change, classify, pick_labels
from pipelines.evaluation.quality import Check
from pipelines.evaluation.report import ChangeMap, EmbeddingMap, Panel, ReportData, StageRow, TruthMap
from pipelines.evaluation.scores_io import Score
from pipelines.grid import RESOLUTION_M
from pipelines.shards import read_rows
from pipelines.shards.reader import Row
from pipelines.stages import checkpoint as checkpoints
from pipelines.stages.earth import test_area_of
from pipelines.stages.pictures import View, embedding_view, patchwork, views_of
from pipelines.stages.planned import Plan, read_plan
from pipelines.stages.probe_points import Place
from pipelines.stages.truth import land_cover_codes, truth_view
from pipelines.storage import Storage

STAGES_BEFORE = ("sandbox", "plan", "ingest", "train", "embed")
MAP_LABELS = 10
MAX_VIEWS = 6
# True colour, or false colours of the 20 m bands where those are all there is.
MOSAIC_BANDS = (("red", "green", "blue"), ("swir16", "nir08", "rededge1"), ("swir16", "nir", "red"))


def report_data(
    config: Config,
    places: list[Place],
    points: pd.DataFrame,
    vectors: NDArray[np.float32],
    scores: list[Score],
    checks: list[Check],
) -> ReportData:
    """Everything that the report shows."""
    storage = Storage(config.root)
    plan = Plan.load(config)
    counts = read_plan(storage)["counts"]
    found = checkpoints.trained(config)
    views = views_of(plan.tiles())[:MAX_VIEWS]
    mosaics, embeddings, truths, changes = [], [], [], []
    for view in views:
        images = []
        for period in config.support_periods:
            image = embedding_view(storage, view, period.label)
            images.append(image)
            if not np.isfinite(image).any():
                continue
            embeddings.append(EmbeddingMap(f"{period.label}, around {view.name}", image))
            mosaic = input_mosaic(config, view, [place for place in places if place.period == period])
            if mosaic is not None:
                mosaics.append(Panel(f"{period.label}, around {view.name}", mosaic, "Median of clear Sentinel-2 looks"))
            truth_map = _truth_map(config, view, period.label, image, points, vectors)
            if truth_map is not None:
                truths.append(truth_map)
        for index in range(1, len(images)):
            both = np.isfinite(images[index]).all(-1) & np.isfinite(images[index - 1]).all(-1)
            if both.any():
                changes.append(_change_map(config, view, index, images))
    summary = storage.read_json("reports/summary.json")["stages"] if storage.exists("reports/summary.json") else {}
    stages = [
        StageRow(
            row["stage"],
            row["seconds"],
            row["peak_memory_bytes"],
            {name: row[name] for name in ("planned", "written", "skipped", "failed")},
        )
        for row in (summary[name] for name in STAGES_BEFORE if name in summary)
    ]
    history = found.history
    names = sorted({name for row in history for name in row} - {"step", "seconds", "steps_per_second"})
    losses = {
        name: ([row["step"] for row in history if name in row], [row[name] for row in history if name in row])
        for name in sorted(names, key=lambda name: (name != "total", "/" in name, name))
    }
    return ReportData(
        title="Embeddings of every 10 m pixel",
        lead="A year of satellite images became 64 numbers a pixel; here is what they hold.",
        facts={
            "Area": f"{counts['tiles']} tiles of {config.plan.tile_px} px in all periods",
            "Periods": ", ".join(period.label for period in config.support_periods),
            "Scenes": ", ".join(f"{name} {count}" for name, count in counts["scenes"].items()),
            "Model": f"{config.train.model}, {sum(t.numel() for t in found.state.values()) / 1e6:.2f} M parameters",
            "Training": f"{found.step} steps of {config.train.batch} crops of {config.train.crop_px} px",
            "Seed": str(config.seed),
            "Machine": f"{os.cpu_count()} cores, {platform.machine()}",
        },
        stages=stages,
        mosaics=mosaics,
        embeddings=embeddings,
        truths=truths,
        changes=changes,
        losses=losses,
        scores=scores,
        checks=checks,
    )


def input_mosaic(config: Config, view: View, places: list[Place]) -> NDArray[np.uint8] | None:
    """Medians of the clear looks of a view, in true or else false colour; None without optical data."""
    if "sentinel2" not in config.sources:
        return None
    known = config.source("sentinel2").band_names
    outline = view.window.footprint()
    rows = sorted(place.row for place in places if place.window.footprint().intersects(outline))
    for bands in MOSAIC_BANDS:
        if not set(bands) <= set(known):
            continue
        mosaic = _median_mosaic(config, view, rows, [known.index(name) for name in bands])
        if np.isfinite(mosaic).all(axis=-1).any():
            return composite_rgb(mosaic)
    return None


def _median_mosaic(config: Config, view: View, rows: list[Row], index: list[int]) -> NDArray[np.float32]:
    step = max(1, view.window.resolution_m // RESOLUTION_M)
    patches = []
    for sequence in read_rows(Storage(config.root), rows, sources=["sentinel2"]):
        if "sentinel2" not in sequence.rasters:
            continue
        raster = sequence.rasters["sentinel2"]
        stored = raster.values[:, index, ::step, ::step]
        values: NDArray = stored * raster.scale[:, index, None, None] + raster.offset[:, index, None, None]
        clear = raster.weight[:, None, ::step, ::step] > 0
        values = np.where(clear & (stored != raster.nodata), values, np.nan)
        seen = np.isfinite(values).any(axis=0)
        image: NDArray[np.float32] = np.full(values.shape[1:], np.nan, np.float32)
        image[seen] = np.nanmedian(values[:, seen], axis=0)
        window = sequence.window
        whole = np.repeat(np.repeat(image, step, axis=1), step, axis=2)
        patches.append((window, whole[:, : window.height_px, : window.width_px]))
    return patchwork(view, patches, 3)


def _truth_map(
    config: Config,
    view: View,
    label: str,
    image: NDArray[np.float32],
    points: pd.DataFrame,
    vectors: NDArray[np.float32],
) -> TruthMap | None:
    assert config.evaluate is not None
    task = next((part for part in config.evaluate.tasks if part.kind == "classification"), None)
    truth = truth_view(config, view, label, "land_cover")
    if task is None or truth is None:
        return None
    codes = land_cover_codes(config)
    rows = points[(points["period"] == label) & (points["site_split"] == "train") & points[task.column].isin(codes)]
    rows = rows[np.isfinite(vectors[rows.index.to_numpy()]).all(axis=1)]
    labels = rows[task.column].map(codes).to_numpy(np.int64)
    chosen = pick_labels(labels, MAP_LABELS, config.seed)
    if not len(chosen):
        return None
    trained_on = rows.index.to_numpy()[chosen]
    predicted = classify(image, vectors[trained_on], labels[chosen])
    truth[predicted == 0] = 0
    return TruthMap(
        f"Land cover {label}, around {view.name}",
        truth,
        predicted.astype(np.int64),
        {code: (name.replace("_", " "), None) for name, code in codes.items()},
        f"{MAP_LABELS} labels a class from the training sites, 3 nearest neighbours",
        held_out_ground(config, view),
    )


def held_out_ground(config: Config, view: View) -> NDArray[np.bool_] | None:
    """Which pixels of a view lie in the test area; None without one."""
    area = test_area_of(config)
    if area is None:
        return None
    west, south, east, north = area
    lon, lat = view.lonlat()
    inside: NDArray[np.bool_] = (lon >= west) & (lon < east) & (lat >= south) & (lat < north)
    return inside


def _change_map(config: Config, view: View, index: int, images: list[NDArray[np.float32]]) -> ChangeMap:
    before, after = config.support_periods[index - 1].label, config.support_periods[index].label
    first, second = (truth_view(config, view, label, "land_cover") for label in (before, after))
    truth = None
    if first is not None and second is not None:
        truth = (first != second) & (first > 0) & (second > 0)
    return ChangeMap(f"{before} to {after}, around {view.name}", change(images[index - 1], images[index]), truth)
