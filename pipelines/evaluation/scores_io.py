"""The row of the score table, and the file of such rows (``reports/scores.json``).

The fields are an interface: tools outside this project read them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Score:
    """One number of the evaluation.

    Attributes:
        task: ``land_cover`` ... ; a task's unsupervised variant is ``<task>_unsupervised``.
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


def write_scores(path: str | Path, scores: Iterable[Score]) -> None:
    """Writes rows as a JSON list, replacing the file in one step.

    Raises:
        ValueError: for a mean that is not finite; such a number hides a failed evaluation.
    """
    rows = []
    for score in scores:
        if not math.isfinite(score.mean):
            raise ValueError(f"score {score} is not finite; look at its features and labels")
        rows.append(asdict(score))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(rows, indent=1, allow_nan=False) + "\n")
    temporary.replace(path)


def read_scores(path: str | Path) -> list[Score]:
    """The inverse of :func:`write_scores`."""
    names = {field.name for field in fields(Score)}
    rows = json.loads(Path(path).read_text())
    for row in rows:
        if set(row) != names:
            raise ValueError(f"{path}: row has fields {sorted(row)}, expected {sorted(names)}; run evaluate again")
    return [Score(**row) for row in rows]
