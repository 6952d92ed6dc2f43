"""Evaluate: what the embeddings are good for, beside designed features and the untrained model; and the report."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import label as connected_parts

from pipelines.config import Config, ConfigError, TaskConfig
from pipelines.evaluation.figures import composite_rgb
from pipelines.evaluation.labels import Task, TaskKind, file_bytes, labelled, pair_years, split_by_groups
from pipelines.evaluation.maps import change, classify, pick_labels
from pipelines.evaluation.protocol import Settings, change_features, evaluate, unsupervised_change
from pipelines.evaluation.quality import Check, neighbour_check, pair_cosine, seam_ratio, vector_checks
from pipelines.evaluation.report import ChangeMap, EmbeddingMap, Panel, ReportData, StageRow, TruthMap, write_report
from pipelines.evaluation.scores_io import Score, write_scores
from pipelines.grid import RESOLUTION_M
from pipelines.products import code_digest, committed_tiles, identity, sample_points
from pipelines.shards import read_rows
from pipelines.shards.reader import Row
from pipelines.stages import checkpoint as checkpoints
from pipelines.stages.ingest import current_shards
from pipelines.stages.pictures import View, embedding_view, patchwork, raster_view, views_of
from pipelines.stages.plan import Plan, test_area_of
from pipelines.stages.probe_points import Place, computed_features, label_files, labelled_points, places_of
from pipelines.stages.session import StageResult, ray_session
from pipelines.storage import Storage

SCORES = "reports/scores.json"
REPORT = "reports/report.html"
EVALUATED = "reports/evaluated.json"
"""What the scores and the report were made from."""
STAGES_BEFORE = ("sandbox", "plan", "ingest", "train", "embed")
EMBEDDING = "embedding"
MAP_LABELS = 10
MAX_VIEWS = 6
# True colour, or false colours of the 20 m bands where those are all there is.
MOSAIC_BANDS = (("red", "green", "blue"), ("swir16", "nir08", "rededge1"), ("swir16", "nir", "red"))

Features = dict[str, NDArray[np.float32]]


def run(config: Config) -> StageResult:
    """Probe every task and write scores and report.

    Raises:
        ConfigError: without labels in the area, or a trained model; for truth that is not on this machine.
    """
    if config.evaluate is None:
        raise ConfigError("evaluate: the configuration has no such section; it names the labels and the tasks")
    check_truth(config)
    storage = Storage(config.root)
    result = StageResult("evaluate", "tasks", planned=len(config.evaluate.tasks))
    key = evaluation_identity(config)
    if all(map(storage.exists, (EVALUATED, SCORES, REPORT))) and storage.read_json(EVALUATED)["identity"] == key:
        result.skipped = result.planned
        result.reasons = {"already scored with these tiles, labels and settings": result.planned}
        result.details = storage.read_json(EVALUATED)["details"]
        return result
    places = places_of(config)
    points = labelled_points(config, places)
    features: Features = {EMBEDDING: mapped_vectors(storage, points)}
    with ray_session(config):
        features |= computed_features(config, places, points)
    scores: list[Score] = []
    for task in config.evaluate.tasks:
        scores += task_scores(config, task, points, features)
        result.written += 1
    checks = quality_checks(config, points, features[EMBEDDING])
    write_scores(storage, SCORES, scores)
    write_report(storage, REPORT, report_data(config, places, points, features[EMBEDDING], scores, checks))
    result.details = {"points": len(points), "scores": len(scores), "checks": {c.name: c.value for c in checks}}
    storage.write_json(EVALUATED, {"identity": key, "details": result.details})
    return result


def evaluation_identity(config: Config) -> str:
    """Hash of everything that scores and report come from: tiles, shards, labels, model, settings, code."""
    assert config.evaluate is not None
    storage = Storage(config.root)
    tiles = [(receipt["tile_id"], receipt["period"]["label"], receipt["data"]["sha256"]) for receipt in
             committed_tiles(storage)]  # fmt: skip
    truth = Path(config.evaluate.truth) if config.evaluate.truth else None
    parameters = {
        "evaluate": config.evaluate.model_dump(mode="json"),
        "embed": config.embed.model_dump(include={"patch_px", "margin_px", "precision"}),
        "sources": {name: config.source(name).band_names for name in config.sources},
        "periods": config.periods,
        "seed": config.seed,
    }
    return identity(
        inputs={
            "tiles": sorted(tiles),
            "shards": current_shards(config, "train") + current_shards(config, "test"),
            "labels": label_digests(config),
            "truth": sorted((file.name, file.stat().st_size) for file in truth.glob("*")) if truth else [],
        },
        parameters=parameters,
        model_digest=checkpoints.current_digest(config),
        code_digest=code_digest(
            "aef_model",
            "pipelines.evaluation",
            "pipelines.stages.evaluate",
            "pipelines.stages.probe_points",
            "pipelines.stages.pictures",
            "pipelines.stages.embedder",
        ),
    )


def label_digests(config: Config) -> list[tuple[str, str]]:
    """Every label file and the SHA-256 of its content; empty where there is none, which is reported by its reader."""
    contents = ((path, file_bytes(path)) for path in label_files(config))
    return [(path, "" if found is None else hashlib.sha256(found).hexdigest()) for path, found in contents]


def check_truth(config: Config) -> None:
    """Truth rasters are for the pictures of a synthetic Earth, which lies on this machine.

    Raises:
        ConfigError: when they are said to be elsewhere.
    """
    assert config.evaluate is not None
    if config.evaluate.truth and "://" in config.evaluate.truth:
        raise ConfigError(
            f"evaluate.truth: {config.evaluate.truth} is not a folder of this machine; copy the rasters here, or leave "
            "the key out: only pictures and checks of the report need it"
        )


def mapped_vectors(storage: Storage, points: pd.DataFrame) -> NDArray[np.float32]:
    """``(P, 64)`` from the tiles on storage, as a user would read them."""
    out = np.full((len(points), 64), np.nan, np.float32)
    for period, part in points.groupby("period"):
        index = part.index.to_numpy()
        out[index], _ = sample_points(storage, part["lon"].to_numpy(), part["lat"].to_numpy(), str(period))
    return out


def _task(part: TaskConfig) -> Task:
    return Task(part.name, TaskKind(part.kind), part.column, part.year, part.year_after)


def task_scores(config: Config, part: TaskConfig, points: pd.DataFrame, features: Features) -> list[Score]:
    """All rows of one task."""
    settings_of = config.evaluate
    assert settings_of is not None
    task = _task(part)
    settings = Settings(
        shots=settings_of.shots,
        repeats=settings_of.repeats,
        max_per_class=settings_of.max_per_class,
        split=f"test_{settings_of.split}",
    )
    if task.kind is TaskKind.CHANGE:
        return _change_scores(config, task, points, features, settings)
    rows = labelled(points, task)
    chosen = {name: values[rows.index.to_numpy()] for name, values in features.items()}
    train, test = split(config, rows)
    return evaluate(
        chosen,
        rows["label"].to_numpy(),
        task,
        train,
        test,
        rows["site"].to_numpy(),
        seed=config.seed,
        settings=settings,
    )


def _change_scores(
    config: Config, task: Task, points: pd.DataFrame, features: Features, settings: Settings
) -> list[Score]:
    pairs = pair_years(points, task)
    before, after = pairs["before"].to_numpy(), pairs["after"].to_numpy()
    rows = points.iloc[after].assign(label=pairs["label"].to_numpy())
    train, test = split(config, rows)
    sites = rows["site"].to_numpy()
    labels = rows["label"].to_numpy()
    moving = {name: values for name, values in features.items() if name not in ("xy", "xyz")}
    scores = evaluate(
        {name: change_features(values[before], values[after]) for name, values in features.items()},
        labels, task, train, test, sites, seed=config.seed, settings=settings,
    )  # fmt: skip
    return scores + unsupervised_change(
        {name: values[before] for name, values in moving.items()},
        {name: values[after] for name, values in moving.items()},
        labels, task, train, test, sites, seed=config.seed, settings=settings,
    )  # fmt: skip


def split(config: Config, rows: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Training and test points: by held-out sites, or by parcels where all sites are one neighbourhood."""
    assert config.evaluate is not None
    if config.evaluate.split == "groups":
        return split_by_groups(
            rows["group"].to_numpy(), config.evaluate.test_share, config.seed, rows["label"].to_numpy()
        )
    test = (rows["site_split"] == "test").to_numpy()
    if not test.any() or test.all():
        raise ConfigError("plan.test_area: labels lie in training or in test sites only; move the test area")
    shared = set(rows["group"][test])
    return ~test & ~rows["group"].isin(shared).to_numpy(), test


def quality_checks(config: Config, points: pd.DataFrame, vectors: NDArray[np.float32]) -> list[Check]:
    """Collapse, sub-pixel codes, stability over the years, seams."""
    known = np.isfinite(vectors).all(axis=1)
    checks = list(vector_checks(vectors[known], points["site"].to_numpy()[known]))
    assert config.evaluate is not None
    storage = Storage(config.root)
    period = config.support_periods[-1]
    tiles = Plan.load(config).tiles()
    seams, truths = [], []
    for view in _fine_views(tiles):
        image = embedding_view(storage, view, period.label)
        if np.isfinite(image).all(axis=-1).mean() > 0.5:
            inner = view.window.height_px // 2
            try:
                seams.append(seam_ratio(image, [inner], [inner]))
            except ValueError:
                continue
        if config.evaluate.truth:
            parts = _parcels(config, view, period.label)
            if parts is not None:
                truths.append((image, parts))
    if seams:
        middle = float(np.median(seams))
        checks.append(Check("seam ratio at tile corners", middle, "0.80 to 1.25", 0.8 <= middle <= 1.25))
    if truths:
        image = np.concatenate([one for one, _ in truths])
        offsets = np.cumsum([0, *(parts.max() for _, parts in truths[:-1])])
        parcels = np.concatenate(
            [np.where(parts > 0, parts + offset, 0) for (_, parts), offset in zip(truths, offsets, strict=True)]
        )
        checks += neighbour_check(image, parcels)
    if len(config.periods) > 1 and config.evaluate.truth:
        change_tasks = [part for part in config.evaluate.tasks if part.kind == "change"]
        if change_tasks:
            pairs = pair_years(points, _task(change_tasks[0]))
            stable = (pairs["label"] == "stable").to_numpy()
            value = pair_cosine(vectors[pairs["before"]], vectors[pairs["after"]], stable)
            moved = pair_cosine(vectors[pairs["before"]], vectors[pairs["after"]], ~stable)
            checks.append(
                Check("year-to-year cosine, stable points", value, "near 1, above changed points", value > moved)
            )
            checks.append(Check("year-to-year cosine, changed points", moved, "below stable points"))
    return checks


def _fine_views(tiles: list[Any], most: int = 12) -> list[View]:
    """Full-resolution squares around corners where four tiles meet."""
    views = []
    for tile in tiles:
        window = tile.window
        size = min(window.width_px, 256)
        half = size // 2 * RESOLUTION_M
        corner = type(window)(
            window.epsg, window.bounds_m[2] - half, window.bounds_m[1] + half, size, size, RESOLUTION_M
        )
        near = tuple(
            t for t in tiles if t.window.epsg == window.epsg and t.window.polygon().intersects(corner.polygon())
        )
        if len(near) == 4:
            views.append(View(tile.tile_id, corner, near))
    return views[:most]


def _parcels(config: Config, view: View, label: str) -> NDArray[np.int64] | None:
    """Connected parts of one class in the truth raster: the parcels of a view; None without truth."""
    paths = _truth_paths(config, label, "class16")
    if not paths:
        return None
    codes = raster_view(paths, view).astype(np.int64)
    out, offset = np.zeros(codes.shape, np.int64), 0
    for code in np.unique(codes[codes > 0]):
        parts, count = connected_parts(codes == code)
        out[parts > 0] = parts[parts > 0] + offset
        offset += count
    return out


def _truth_paths(config: Config, label: str, layer: str) -> list[Path]:
    assert config.evaluate is not None and config.evaluate.truth is not None
    return sorted(Path(config.evaluate.truth).glob(f"*_{label}_{layer}.tif"))


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
    counts = storage.read_json("plan/plan.json")["counts"]
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
            if config.evaluate is not None and config.evaluate.truth:
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
    assert config.evaluate is not None and config.evaluate.truth is not None
    task = next((part for part in config.evaluate.tasks if part.kind == "classification"), None)
    paths = _truth_paths(config, label, "land_cover")
    if task is None or not paths:
        return None
    legend = json.loads((Path(config.evaluate.truth) / "legend.json").read_text())["land_cover"]
    codes = {name: int(code) for code, name in legend.items()}
    rows = points[(points["period"] == label) & (points["site_split"] == "train") & points[task.column].isin(codes)]
    rows = rows[np.isfinite(vectors[rows.index.to_numpy()]).all(axis=1)]
    labels = rows[task.column].map(codes).to_numpy(np.int64)
    chosen = pick_labels(labels, MAP_LABELS, config.seed)
    if not len(chosen):
        return None
    trained_on = rows.index.to_numpy()[chosen]
    predicted = classify(image, vectors[trained_on], labels[chosen])
    truth = raster_view(paths, view).astype(np.int64)
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
    truth = None
    if config.evaluate is not None and config.evaluate.truth:
        paths = [_truth_paths(config, label, "land_cover") for label in (before, after)]
        if all(paths):
            first, second = (raster_view(part, view) for part in paths)
            truth = (first != second) & (first > 0) & (second > 0)
    return ChangeMap(f"{before} to {after}, around {view.name}", change(images[index - 1], images[index]), truth)


def describe(config: Config) -> None:
    """Print what evaluate would do."""
    if config.evaluate is None:
        print("[evaluate] no evaluate section: no labels, nothing to probe")
        return
    check_truth(config)
    tasks = ", ".join(f"{task.name} ({task.kind})" for task in config.evaluate.tasks)
    print(f"[evaluate] {tasks}; labels {list(config.evaluate.labels)}; shots {list(config.evaluate.shots)}")
