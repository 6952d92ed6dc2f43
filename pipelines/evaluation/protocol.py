"""The protocol: the same draws of labels, the same heads and the same resamplings for every feature set.

SPEC 6.2 with three deviations, each to the strict side: intervals come from a bootstrap over sites in place of
points, a change threshold is chosen on the drawn training points in place of the test set, and designed features get
the better of raw and standardised, chosen by a split of the training points. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.labels import Task, TaskKind
from pipelines.evaluation.metrics import (
    Array,
    Bootstrap,
    ClassTally,
    ValueTally,
    error_reduction,
    interval,
    kappa_error,
    mean_of,
)
from pipelines.evaluation.probes import Draw, best_threshold, knn, linear_classes, linear_values
from pipelines.evaluation.scores_io import Score

__all__ = ["Score", "Settings", "change_features", "evaluate", "make_draws", "unsupervised_change"]

Shots = int | Literal["max"]
Features = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Settings:
    """How much to do.

    Attributes:
        shots: labels per class, or "max": as many as the smallest class has, at most ``max_per_class``.
        repeats: draws for each of ``shots``.
        max_per_class: cap of "max".
        min_train, min_test: a class with fewer points in either split is left out of the task.
        bins: quantile bins of a regression's labels, each treated as a class when drawing (SPEC 6.1: 10).
        resamplings: of the bootstrap.
        unscaled: feature sets that are used as they are; all others get the better of raw and standardised.
        trials: draws used to choose between raw and standardised.
        split: name of the split in the score table.
    """

    shots: Sequence[Shots] = (1, 10, "max")
    repeats: Mapping[Shots, int] = field(default_factory=lambda: {1: 100, 10: 60, "max": 8})
    max_per_class: int = 100
    min_train: int = 2
    min_test: int = 1
    bins: int = 10
    resamplings: int = 400
    unscaled: frozenset[str] = frozenset({"embedding", "untrained"})
    trials: int = 12
    split: str = "test_sites"


def evaluate(
    features: Features,
    labels: NDArray,
    task: Task,
    train_mask: NDArray[np.bool_],
    test_mask: NDArray[np.bool_],
    sites: NDArray,
    shots: Sequence[Shots] | None = None,
    repeats: Mapping[Shots, int] | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    reference: str = "embedding",
    not_baselines: frozenset[str] = frozenset({"embedding", "untrained"}),
) -> list[Score]:
    """Scores of every feature set on one task.

    Args:
        features: by name ``(P, D)``; rows are points. NaN is filled with the median of the training points; a row
            that is NaN throughout in any feature set is left out for all of them.
        labels: ``(P,)`` classes (any type) or numbers (regression).
        task: kind and name. A change task is a classification of :func:`change_features`.
        train_mask: points that may be drawn for training.
        test_mask: points that are scored.
        sites: ``(P,)`` site of each point, the unit of the bootstrap.
        shots: those of the settings to do now; None: all. Each gives the same rows alone as beside the others.
        repeats: replaces those of the settings.
        seed: of draws and bootstrap.
        settings: everything else.
        reference: the feature set whose error reduction against the best baseline is reported.
        not_baselines: feature sets that are no opponents.

    Returns:
        rows for every (features, shots, head); ``best`` repeats the best head of each feature set.

    Raises:
        ValueError: when shapes differ or fewer than two classes remain.
    """
    base = settings or Settings()
    settings = replace(base, repeats=repeats or base.repeats)
    problem = _Problem.make(features, labels, task, train_mask, test_mask, sites, settings, seed)
    scores: list[Score] = []
    for shot in settings.shots if shots is None else shots:
        draws = problem.draws(problem.train, shot, _repeats(settings, shot), seed)
        boot = Bootstrap.make(problem.site_count, len(draws), settings.resamplings, seed)
        best: dict[str, _Result] = {}
        for name, values in problem.features.items():
            values = problem.scaled(name, values, shot, seed)
            results = problem.run(values, draws, problem.train, problem.test)
            heads = {head: _Result.of(result, problem, boot) for head, result in results.items()}
            winner = max(heads, key=lambda head: heads[head].means[problem.main_metric])
            best[name] = heads[winner]
            for head, result in [*heads.items(), ("best", heads[winner])]:
                scores += result.rows(problem, shot, head, name)
        if problem.main_metric == "balanced_accuracy":
            scores += _reductions(best, problem, shot, reference, not_baselines)
    return scores


def change_features(before: NDArray, after: NDArray) -> NDArray[np.float32]:
    """The supervised features of a pair: both vectors side by side."""
    return np.concatenate([before, after], axis=1).astype(np.float32)


def cosine_change(before: NDArray, after: NDArray) -> Array:
    """``(1 - cos) / 2`` of each pair of rows, 0 the same direction, 1 opposite."""
    before, after = before.astype(np.float64), after.astype(np.float64)
    length = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
    return (1 - (before * after).sum(-1) / np.maximum(length, 1e-12)) / 2


def unsupervised_change(
    before: Features,
    after: Features,
    labels: NDArray,
    task: Task,
    train_mask: NDArray[np.bool_],
    test_mask: NDArray[np.bool_],
    sites: NDArray,
    seed: int = 0,
    settings: Settings | None = None,
    positive: object = "changed",
) -> list[Score]:
    """Change by one threshold on the cosine of each pair, chosen on all training points and never on the test points.

    Both years are scaled alike; rows have shots ``max`` and head ``threshold``. Arguments as in :func:`evaluate`.
    """
    settings = settings or Settings()
    stacked = {name: change_features(before[name], after[name]) for name in before}
    problem = _Problem.make(stacked, labels, task, train_mask, test_mask, sites, settings, seed)
    truth = np.asarray(labels)[problem.kept] == positive
    boot = Bootstrap.make(problem.site_count, 1, settings.resamplings, seed)
    rows: list[Score] = []
    for name, both in problem.features.items():
        first, second = np.split(both, 2, axis=1)
        variants = [(first, second)]
        if name not in settings.unscaled:
            pool = np.concatenate([first[problem.train], second[problem.train]])
            mean, std = pool.mean(0), _safe_std(pool)
            variants.append(((first - mean) / std, (second - mean) / std))
        choices = []
        for one, two in variants:
            change = cosine_change(one, two)
            threshold = best_threshold(change[problem.train], truth[problem.train])
            found = change > threshold
            right = (found == truth)[problem.train]
            fit = np.mean([right[truth[problem.train] == kind].mean() for kind in (False, True)])
            choices.append((fit, found))
        found = max(choices, key=lambda choice: choice[0])[1]
        at = {bool(truth[problem.labels == index][0]): index for index in range(problem.classes)}
        predicted = np.where(found, at[True], at[False])[problem.test][None]
        result = _Result.of(predicted, problem, boot)
        for head in ("threshold", "best"):
            scored = result.rows(problem, "max", head, name)
            rows += [replace(row, task=f"{task.name}_unsupervised") for row in scored]
    return rows


def make_draws(
    classes: NDArray[np.intp],
    pool: NDArray[np.intp],
    shot: Shots,
    repeats: int,
    seed: int,
    max_per_class: int,
    floor: int = 1,
) -> list[Draw]:
    """Balanced draws without replacement from a pool of rows.

    With "max" every class gives as many as the smallest class has, at most ``max_per_class`` and at least ``floor``
    (so that "max" is never fewer than the few-shot trials beside it). A class with fewer points gives all it has.
    """
    members = [pool[classes[pool] == index] for index in np.unique(classes[pool])]
    smallest = min(len(rows) for rows in members)
    count = max(min(max_per_class, smallest), floor) if shot == "max" else int(shot)
    rng = np.random.default_rng([seed, 0 if shot == "max" else int(shot)])
    draws = [
        np.concatenate([rng.permutation(rows)[: min(count, len(rows))] for rows in members]) for _ in range(repeats)
    ]
    if all(len(rows) <= count for rows in members):
        return draws[:1]  # every draw is the same set of points
    return draws


def _repeats(settings: Settings, shot: Shots) -> int:
    if shot not in settings.repeats:
        raise ValueError(f"evaluate.repeats: no entry for {shot!r} shots; it has {list(settings.repeats)}")
    return settings.repeats[shot]


def _safe_std(values: NDArray) -> NDArray:
    std = values.std(0)
    return np.where(std > 1e-9 * np.maximum(np.abs(values).max(0), 1e-12), std, 1.0)


def _impute(values: NDArray, train: NDArray[np.intp]) -> Array:
    """NaN replaced by the median of the training points, 0 where those have none."""
    values = np.array(values, np.float64)
    values[~np.isfinite(values)] = np.nan
    for column in np.flatnonzero(np.isnan(values).any(0)):
        known = values[train, column]
        known = known[~np.isnan(known)]
        values[np.isnan(values[:, column]), column] = np.median(known) if len(known) else 0.0
    return values


@dataclass(frozen=True)
class _Problem:
    """One task made ready: rows that can be used, indices in place of names.

    ``labels`` are class indices or numbers; ``strata`` are what draws are balanced over; ``train`` and ``test`` are
    row indices; ``sites`` are site indices of the test rows; ``kept`` are the rows of the caller's arrays.
    """

    task: Task
    features: dict[str, Array]
    labels: NDArray
    strata: NDArray[np.intp]
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    test_sites: NDArray[np.intp]
    train_sites: NDArray[np.intp]
    kept: NDArray[np.intp]
    classes: int
    settings: Settings

    @classmethod
    def make(
        cls,
        features: Features,
        labels: NDArray,
        task: Task,
        train_mask: NDArray[np.bool_],
        test_mask: NDArray[np.bool_],
        sites: NDArray,
        settings: Settings,
        seed: int,
    ) -> _Problem:
        labels, sites = np.asarray(labels), np.asarray(sites)
        for name, values in features.items():
            if values.ndim != 2 or len(values) != len(labels):
                raise ValueError(f"features {name!r} have shape {values.shape}, expected ({len(labels)}, D)")
        if bool(np.any(train_mask & test_mask)):
            raise ValueError(f"task {task.name}: {int(np.sum(train_mask & test_mask))} points are in both splits")
        usable = train_mask | test_mask
        for values in features.values():
            usable = usable & np.isfinite(values).any(1)
        if task.kind is TaskKind.REGRESSION:
            usable &= np.isfinite(labels.astype(np.float64))
            classes = 0
        else:
            names, of = np.unique(labels, return_inverse=True)
            train_count = np.bincount(of[usable & train_mask], minlength=len(names))
            test_count = np.bincount(of[usable & test_mask], minlength=len(names))
            held = (train_count >= settings.min_train) & (test_count >= settings.min_test)
            if held.sum() < 2:
                raise ValueError(
                    f"task {task.name}: fewer than two classes have {settings.min_train} training and "
                    f"{settings.min_test} test points; label more parcels or change the split"
                )
            usable &= held[of]
            classes = int(held.sum())
        kept = np.flatnonzero(usable)
        train, test = np.flatnonzero(train_mask[kept]), np.flatnonzero(test_mask[kept])
        if len(train) < 2 or len(test) < 2:
            raise ValueError(f"task {task.name}: {len(train)} training and {len(test)} test points are too few")
        if classes:
            index = np.unique(labels[kept], return_inverse=True)[1].astype(np.intp)
            strata = index
        else:
            index = labels[kept].astype(np.float64)
            edges = np.unique(np.quantile(index[train], np.linspace(0, 1, settings.bins + 1)[1:-1]))
            strata = np.searchsorted(edges, index, side="right").astype(np.intp)
        return cls(
            task,
            {name: _impute(values[kept], train) for name, values in features.items()},
            index,
            strata,
            train,
            test,
            np.unique(sites[kept][test], return_inverse=True)[1].astype(np.intp),
            np.unique(sites[kept][train], return_inverse=True)[1].astype(np.intp),
            kept,
            classes,
            settings,
        )

    @property
    def site_count(self) -> int:
        return int(self.test_sites.max()) + 1

    @property
    def main_metric(self) -> str:
        return "balanced_accuracy" if self.classes else "r2"

    def draws(self, pool: NDArray[np.intp], shot: Shots, repeats: int, seed: int) -> list[Draw]:
        """Rows of the training points for each draw; for regression "max" takes up to the cap from every bin."""
        if not self.classes and shot == "max":
            shot = self.settings.max_per_class
        floor = max([1, *(int(other) for other in self.settings.shots if other != "max")])
        return make_draws(self.strata, pool, shot, repeats, seed, self.settings.max_per_class, floor)

    def run(
        self, values: Array, draws: list[Draw], pool: NDArray[np.intp], test: NDArray[np.intp]
    ) -> dict[str, NDArray]:
        """Predictions ``(R, T)`` by head."""
        used, inverse = np.unique(np.concatenate(draws), return_inverse=True)
        assert np.isin(used, pool).all()
        cuts = np.cumsum([len(draw) for draw in draws])[:-1]
        local = np.split(inverse, cuts)
        x, y, z = values[used], self.labels[used], values[test]
        neighbours = knn(x, y, z, local, (1, 3), mean=not self.classes)
        linear: Callable[..., NDArray] = linear_classes if self.classes else linear_values
        return {"knn1": neighbours[1], "knn3": neighbours[3], "linear": linear(x, y, z, local)}

    def scaled(self, name: str, values: Array, shot: Shots, seed: int) -> Array:
        """The raw or the standardised features, whichever does better when the training points are split in two.

        The split is by sites where there are at least four; test points are not looked at.
        """
        if name in self.settings.unscaled:
            return values
        pool = values[self.train]
        standard = (values - pool.mean(0)) / _safe_std(pool)
        rng = np.random.default_rng([seed, 77])
        units = self.train_sites if self.train_sites.max() >= 3 else np.arange(len(self.train))
        half = rng.permutation(int(units.max()) + 1)[units] % 2 == 0
        fit, check = self.train[half], self.train[~half]
        if len(check) == 0 or (self.classes and len(np.unique(self.labels[fit])) < 2):
            return standard
        draws = self.draws(fit, shot, min(self.settings.trials, _repeats(self.settings, shot)), seed)
        quality = []
        for variant in (values, standard):
            heads = self.run(variant, draws, fit, check)
            none = np.zeros(len(check), np.intp)
            quality.append(max(_main(predicted, self.labels[check], none, self) for predicted in heads.values()))
        return values if quality[0] > quality[1] else standard


def _main(predicted: NDArray, truth: NDArray, sites: NDArray[np.intp], problem: _Problem) -> float:
    if problem.classes:
        return mean_of(ClassTally.of(predicted, truth, sites, problem.classes).balanced_accuracy, 1)
    return mean_of(ValueTally.of(predicted, truth, sites).r2, 1)


@dataclass(frozen=True)
class _Result:
    """Means and resampled values by metric of one set of predictions."""

    means: dict[str, float]
    values: dict[str, Array]

    @classmethod
    def of(cls, predicted: NDArray, problem: _Problem, boot: Bootstrap) -> _Result:
        truth, sites = problem.labels[problem.test], problem.test_sites
        metrics: dict[str, Callable[[Array], Array]]
        if problem.classes:
            tally = ClassTally.of(predicted, truth, sites, problem.classes)
            metrics = {
                "balanced_accuracy": tally.balanced_accuracy,
                "macro_f1": tally.macro_f1,
                "kappa_error": partial(_kappa_error, tally, problem.classes),
            }
        else:
            sums = ValueTally.of(predicted, truth, sites)
            metrics = {"r2": sums.r2, "mae": sums.mae}
        means = {name: mean_of(metric, problem.site_count) for name, metric in metrics.items()}
        return cls(means, {name: boot.values(metric) for name, metric in metrics.items()})

    def rows(self, problem: _Problem, shot: Shots, head: str, name: str) -> list[Score]:
        return [
            _row(problem, shot, head, name, metric, mean, self.values[metric]) for metric, mean in self.means.items()
        ]


def _kappa_error(tally: ClassTally, classes: int, weights_BS: Array) -> Array:
    return np.asarray(kappa_error(tally.balanced_accuracy(weights_BS), classes))


def _row(problem: _Problem, shot: Shots, head: str, name: str, metric: str, mean: float, resampled: Array) -> Score:
    low, high = interval(resampled) if problem.site_count > 1 else (None, None)
    split, count = problem.settings.split, len(problem.test)
    return Score(problem.task.name, split, shot, head, name, metric, mean, low, high, count)


def _reductions(
    best: dict[str, _Result], problem: _Problem, shot: Shots, reference: str, not_baselines: frozenset[str]
) -> list[Score]:
    """Error reduction of the reference against the baseline with the best mean, on paired resamplings."""
    baselines = [name for name in best if name not in not_baselines and name != reference]
    if reference not in best or not baselines:
        return []
    metric = "balanced_accuracy"
    rival = best[max(baselines, key=lambda name: best[name].means[metric])]
    own = best[reference]
    mean = float(error_reduction(own.means[metric], rival.means[metric]))
    values = np.asarray(error_reduction(own.values[metric], rival.values[metric]))
    kappa = float(1 - own.means["kappa_error"] / max(rival.means["kappa_error"], 1e-12))
    kappa_values = 1 - own.values["kappa_error"] / np.maximum(rival.values["kappa_error"], 1e-12)
    return [
        _row(problem, shot, "best", reference, "error_reduction", mean, values),
        _row(problem, shot, "best", reference, "kappa_error_reduction", kappa, kappa_values),
    ]
