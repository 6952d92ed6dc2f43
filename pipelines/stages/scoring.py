"""Scores: the features of labelled points, and what the protocol makes of each task."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.config import Config, ConfigError, TaskConfig
from pipelines.evaluation.labels import Task, TaskKind, labelled, pair_years, split_by_groups
from pipelines.evaluation.protocol import Settings, change_features, evaluate, unsupervised_change
from pipelines.evaluation.scores_io import Score
from pipelines.products import sample_points
from pipelines.storage import Storage

Features = dict[str, NDArray[np.float32]]


def mapped_vectors(storage: Storage, points: pd.DataFrame) -> NDArray[np.float32]:
    """``(P, 64)`` from the tiles on storage, as a user would read them."""
    out = np.full((len(points), 64), np.nan, np.float32)
    for period, part in points.groupby("period"):
        index = part.index.to_numpy()
        out[index], _ = sample_points(storage, part["lon"].to_numpy(), part["lat"].to_numpy(), str(period))
    return out


def task_of(part: TaskConfig) -> Task:
    """A configured task as the protocol takes it."""
    return Task(part.name, TaskKind(part.kind), part.column, part.year, part.year_after)


def task_scores(config: Config, part: TaskConfig, points: pd.DataFrame, features: Features) -> list[Score]:
    """All rows of one task."""
    settings_of = config.evaluate
    assert settings_of is not None
    task = task_of(part)
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
