"""The row of the score table, and the file of such rows (``reports/scores.json``).

The fields are an interface: tools outside this project read them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from pipelines.storage import Storage


@dataclass(frozen=True)
class Score:
    """One number of the evaluation.

    Attributes:
        task: ``land_cover`` ... ; a task's unsupervised variant is ``<task>_unsupervised``; ``mean`` is
            the mean over the tasks with classes (of ``kappa_error_reduction`` only), ``quality`` a
            check of the maps (head ``check``).
        split: what was held out, such as ``test_region`` or ``groups``.
        shots: labels per class (per bin of a regression), or ``max``.
        head: ``knn1``, ``knn3``, ``linear``, ``threshold`` or ``best`` (of the others).
        features: ``embedding``, ``untrained`` or a baseline's name.
        metric: ``balanced_accuracy``, ``macro_f1``, ``kappa_error``, ``r2``, ``mae``, ``error_reduction``,
            ``kappa_error_reduction``.
        mean: over the draws of training labels, on all test points.
        low, high: 95 % interval by bootstrap over test sites and draws; None with fewer than two test sites.
        n: number of test points.
    """

    task: str
    split: str
    shots: int | str
    head: str
    features: str
    metric: str
    mean: float
    low: float | None
    high: float | None
    n: int


def write_scores(storage: Storage, path: str, scores: Iterable[Score]) -> None:
    """Writes rows as a JSON list, replacing the object in one step.

    Raises:
        ValueError: for a mean that is not finite; such a number hides a failed evaluation.
    """
    rows = []
    for score in scores:
        if not math.isfinite(score.mean):
            raise ValueError(f"score {score} is not finite; look at its features and labels")
        rows.append(asdict(score))
    storage.write_bytes_atomic(path, (json.dumps(rows, indent=1, allow_nan=False) + "\n").encode())


def read_scores(storage: Storage, path: str) -> list[Score]:
    """The inverse of :func:`write_scores`."""
    names = {field.name for field in fields(Score)}
    rows = storage.read_json(path)
    for row in rows:
        if set(row) != names:
            raise ValueError(
                f"{storage.uri(path)}: row has fields {sorted(row)}, expected {sorted(names)}; run evaluate again"
            )
    return [Score(**row) for row in rows]
