"""Labelled points and their features: which sequence a point lies in, baselines, the untrained model."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
from numpy.typing import NDArray

from pipelines.config import Config, ConfigError
from pipelines.evaluation.baselines import NAMES, RANDOM_CONV, point_features, sample_patches
from pipelines.evaluation.labels import LabelColumns, matching_files, one_per_group, read_labels
from pipelines.evaluation.randomconv import RandomFilters
from pipelines.grid import WGS84, Period, Window, transformer, utm_epsg
from pipelines.shards import open_shards, read_rows
from pipelines.shards.reader import Row
from pipelines.stages import checkpoint as checkpoints
from pipelines.stages.embedder import Embedder
from pipelines.stages.session import Progress
from pipelines.stages.shard_set import current_shards
from pipelines.storage import Storage

FILTER_SEQUENCES = 12
FILTER_PATCHES = 400
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Place:
    """A sequence on storage and where it is."""

    row: Row
    sequence_id: str
    window: Window
    period: Period
    split: str

    @property
    def site(self) -> str:
        return f"{self.window.epsg}_{self.window.left_m}_{self.window.top_m}"


def places_of(config: Config) -> list[Place]:
    """All sequences of the shard set, from the shards' small columns."""
    storage = Storage(config.root)
    paths = current_shards(config, "train") + current_shards(config, "test")
    places = []
    for row in open_shards(storage, paths).metadata().to_pylist():
        window = Window(row["epsg"], row["left_m"], row["top_m"], row["width_px"], row["height_px"])
        period = Period(row["start_ms"], row["end_ms"])
        places.append(Place((row["path"], row["row"]), row["sequence_id"], window, period, row["split"]))
    return places


def label_files(config: Config) -> list[str]:
    """The configured label tables, patterns filled in; a pattern that nothing fits stands for itself.

    Raises:
        ConfigError: for a URI that cannot be read here.
    """
    assert config.evaluate is not None
    try:
        return [path for pattern in config.evaluate.labels for path in matching_files(pattern) or [pattern]]
    except (ImportError, ValueError) as error:  # no such kind of store, or its client is not installed
        listed = ", ".join(config.evaluate.labels)
        raise ConfigError(
            f"evaluate.labels: {listed}: {error}; use paths, s3:// or gs://, and `pip install '.[s3]'` or '.[gcs]'"
        ) from error


def labelled_points(config: Config, places: list[Place]) -> pd.DataFrame:
    """Labels that lie in a sequence of their year, with its index and pixel.

    Returns:
        The label table with ``place`` (index into ``places``), ``row``, ``col``, ``site``, ``site_split``; sorted.

    Raises:
        ConfigError: when no label lies in any sequence.
    """
    evaluate = config.evaluate
    assert evaluate is not None
    files = label_files(config)
    columns = LabelColumns(group=evaluate.group, year=evaluate.year)
    table = read_labels(files, columns)
    parts = []
    lon, lat = table["lon"].to_numpy(), table["lat"].to_numpy()
    years = table["year"].to_numpy()
    known_years = [int(year) for year in np.unique(years)]
    taken: set[tuple[int, str]] = set()
    for index, place in enumerate(places):
        epsg = place.window.epsg
        west, south, east, north = place.window.bounds_m
        x, y = transformer(WGS84, epsg).transform(lon, lat)
        inside = (x >= west) & (x < east) & (y > south) & (y <= north)
        inside &= np.isin(years, [-1, *(year for year in known_years if place.period.is_of(year))])
        for point in np.flatnonzero(inside).tolist():
            # Sites of two zones may overlap on the ground: the zone that owns the point has it.
            if utm_epsg(lon[point], lat[point]) != epsg or (point, place.period.label) in taken:
                continue
            taken.add((point, place.period.label))
            row, col = place.window.pixel(x[point], y[point])
            parts.append((point, index, row, col, place.site, place.split))
    if not parts:
        raise ConfigError("evaluate.labels: no label lies in any site in its year; check positions, years and the plan")
    found = pd.DataFrame(parts, columns=["point", "place", "row", "col", "site", "site_split"])
    points = table.iloc[found["point"]].reset_index(drop=True)
    for name in ("place", "row", "col", "site", "site_split"):
        points[name] = found[name].to_numpy()
    points["period"] = [places[index].period.label for index in points["place"]]
    return one_per_group(points, config.seed, evaluate.points_per_group, by=("group", "year", "period")).reset_index(
        drop=True
    )


class Prober:
    """Computes the features of one sequence's points inside a Ray actor."""

    def __init__(self, config: Config, checkpoint_path: str, filters: RandomFilters | None) -> None:
        self.config, self.filters = config, filters
        found = checkpoints.load(Storage(config.root), checkpoint_path)
        self.untrained = Embedder.of(config, found, untrained=True)
        assert config.evaluate is not None
        self.names = config.evaluate.features or NAMES

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """``task`` (place, rows, cols) in, ``features`` out."""
        place, rows, cols, with_model = pickle.loads(row["task"])
        (sequence,) = read_rows(Storage(self.config.root), [place.row])
        sources = {name: self.config.source(name) for name in self.config.sources}
        features = point_features(sequence, rows, cols, sources, self.filters, self.names)
        if with_model:
            torch.set_num_threads(self.config.embed.threads)
            vectors = self.untrained.embed_whole(sequence, place.period)
            features[UNTRAINED] = vectors[rows, cols]
        return {"index": row["index"], "features": pickle.dumps(features)}


def computed_features(config: Config, places: list[Place], points: pd.DataFrame) -> dict[str, NDArray[np.float32]]:
    """Baselines and the untrained model's vectors at all points, ``(P, D)`` by name."""
    found = checkpoints.trained(config)
    filters = fit_filters(config, places)
    tasks = []
    for index, part in points.groupby("place"):
        task = (places[int(index)], part["row"].to_numpy(), part["col"].to_numpy(), True)
        tasks.append({"index": int(index), "task": pickle.dumps(task)})
    dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
        Prober,  # type: ignore[arg-type]  # Ray takes classes too; its annotation leaves them out
        fn_constructor_args=(config, checkpoints.path_of(found.identity, found.step), filters),
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=min(config.embed.workers, len(tasks))),
    )
    progress = Progress("evaluate", "sequences")
    features: dict[str, NDArray[np.float32]] = {}
    rows_of = {int(index): part.index.to_numpy() for index, part in points.groupby("place")}
    for done, row in enumerate(dataset.iter_rows()):
        for name, values in pickle.loads(row["features"]).items():
            if name not in features:
                features[name] = np.full((len(points), values.shape[1]), np.nan, np.float32)
            features[name][rows_of[int(row["index"])]] = values
        progress(done + 1, len(tasks))
    return features


def fit_filters(config: Config, places: list[Place]) -> RandomFilters | None:
    """Random convolutional filters from a few training sequences."""
    assert config.evaluate is not None
    if config.evaluate.features and RANDOM_CONV not in config.evaluate.features:
        return None
    training = [place for place in places if place.split == "train"]
    chosen = np.random.default_rng(config.seed).permutation(len(training))[:FILTER_SEQUENCES]
    sources = {name: config.source(name) for name in config.sources}
    rows = [training[index].row for index in sorted(chosen)]
    sample = partial(sample_patches, sources=sources, count=FILTER_PATCHES, seed=config.seed)
    wanted = [name for name, source in sources.items() if source.is_input]
    patches = [sample(sequence) for sequence in read_rows(Storage(config.root), rows, sources=wanted)]
    return RandomFilters.fit(np.concatenate(patches), seed=config.seed) if patches else None
