"""How much of the best baseline's error is gone, over several tasks.

SPEC section 6: the ratio of kappa-adjusted balanced errors. Pure functions on score rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.evaluation.scores_io import Score

METRIC = "kappa_error_reduction"
MEAN = "mean"
"""Name of the task of a mean over tasks."""


def mean_reductions(scores: Sequence[Score]) -> list[Score]:
    """The mean kappa-adjusted error reduction over all tasks with classes (land cover, crop type, change), by shots.

    Every task counts alike. There is no interval: the tasks share their test sites, but not their resamplings.
    ``n`` is the number of test points of all tasks. Numbers of shots for which a task is missing are left out: means
    over other tasks could not be compared.
    """
    rows = [score for score in scores if score.metric == METRIC and score.task != MEAN]
    tasks = {row.task for row in rows}
    means = []
    for shots in dict.fromkeys(row.shots for row in rows):
        part = [row for row in rows if row.shots == shots]
        if len(part) == len(tasks):
            mean, points = float(np.mean([row.mean for row in part])), sum(row.n for row in part)
            first = part[0]
            means.append(Score(MEAN, first.split, shots, "best", first.features, METRIC, mean, None, None, points))
    return means
