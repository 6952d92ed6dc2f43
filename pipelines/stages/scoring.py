"""Scores: the features of labelled points, and what the protocol makes of each task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import ray
from numpy.typing import NDArray

from pipelines.config import Config, ConfigError, TaskConfig
from pipelines.evaluation.labels import Task, TaskKind, labelled, pair_years, split_by_groups
from pipelines.evaluation.protocol import Settings, Shots, change_features, evaluate, unsupervised_change
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


def all_scores(
    config: Config, points: pd.DataFrame, features: Features, done: Callable[[int, int], None]
) -> list[Score]:
    """All rows of all tasks, in the order of the configuration; must run inside a Ray session.

    Every task and number of shots is a Ray task of its own: they share no draw, and together keep all cores busy.

    Args:
        config: names the tasks.
        points: from :func:`labelled_points`.
        features: by name ``(P, D)``, rows as ``points``.
        done: called with how many parts are finished and how many there are.

    Raises:
        ConfigError: where the sites cannot be divided into training and test sites.
        ValueError: where the labels of a task do not suffice.
    """
    assert config.evaluate is not None
    for part in config.evaluate.tasks:  # what is wrong with the labels is said before any part is computed
        TaskPoints.of(config, part, points)
    shared = ray.put((points, features))
    score = ray.remote(num_cpus=1)(_part_scores)
    parts = [
        score.remote(config, part, shot, shared) for part in config.evaluate.tasks for shot in config.evaluate.shots
    ]
    waiting = list(parts)
    with _cause_of_task_errors():
        while waiting:
            ready, waiting = ray.wait(waiting)
            ray.get(ready)
            done(len(parts) - len(waiting), len(parts))
        return [row for rows in ray.get(parts) for row in rows]


@contextlib.contextmanager
def _cause_of_task_errors() -> Iterator[None]:
    """Raise what a Ray task raised, as it would have been raised here."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error


def _part_scores(config: Config, part: TaskConfig, shot: Shots, shared: tuple[pd.DataFrame, Features]) -> list[Score]:
    points, features = shared
    return task_scores(config, part, points, features, [shot])


@dataclass(frozen=True)
class TaskPoints:
    """The points of one task.

    Attributes:
        task: as the protocol takes it.
        now: ``(P,)`` row in the label table of each point; for a change task of its later year.
        before: of its earlier year; for other tasks equal to ``now``.
        labels: ``(P,)``.
        sites: ``(P,)`` site of each point.
        train, test: ``(P,)`` masks.
    """

    task: Task
    now: NDArray[np.intp]
    before: NDArray[np.intp]
    labels: NDArray
    sites: NDArray
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]

    @classmethod
    def of(cls, config: Config, part: TaskConfig, points: pd.DataFrame) -> TaskPoints:
        """Those of ``points`` that have a label for the task, divided into training and test points."""
        task = task_of(part)
        if task.kind is TaskKind.CHANGE:
            pairs = pair_years(points, task)
            before, now = pairs["before"].to_numpy(), pairs["after"].to_numpy()
            rows = points.iloc[now].assign(label=pairs["label"].to_numpy())
        else:
            rows = labelled(points, task)
            before = now = rows.index.to_numpy()
        train, test = split(config, rows)
        return cls(task, now, before, rows["label"].to_numpy(), rows["site"].to_numpy(), train, test)


def task_scores(
    config: Config, part: TaskConfig, points: pd.DataFrame, features: Features, shots: list[Shots]
) -> list[Score]:
    """The rows of one task for some of the configured ``shots``."""
    evaluation = config.evaluate
    assert evaluation is not None
    settings = Settings(
        shots=evaluation.shots,
        repeats=evaluation.repeats,
        max_per_class=evaluation.max_per_class,
        split=f"test_{evaluation.split}",
    )
    these = TaskPoints.of(config, part, points)
    task, masks = these.task, (these.train, these.test)
    now = {name: values[these.now] for name, values in features.items()}
    if task.kind is not TaskKind.CHANGE:
        return evaluate(now, these.labels, task, *masks, these.sites, shots=shots, seed=config.seed, settings=settings)
    before = {name: values[these.before] for name, values in features.items()}
    pairs = {name: change_features(before[name], now[name]) for name in now}
    scores = evaluate(pairs, these.labels, task, *masks, these.sites, shots=shots, seed=config.seed, settings=settings)
    if evaluation.shots[-1] not in shots:  # a threshold needs no draws: it goes with the last of the shots
        return scores
    moving = {name for name in now if name not in ("xy", "xyz")}
    before, now = ({name: year[name] for name in year if name in moving} for year in (before, now))
    return scores + unsupervised_change(
        before, now, these.labels, task, *masks, these.sites, seed=config.seed, settings=settings
    )


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
