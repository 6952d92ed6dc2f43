import json

import pytest

from benchmarks.quality import reduction_table, reductions
from pipelines.evaluation.reduction import mean_reductions
from pipelines.evaluation.report_tables import verdict
from pipelines.evaluation.scores_io import Score, read_scores, write_scores
from pipelines.storage import Storage


def row(task, shots, metric, mean, features="embedding", n=10):
    return Score(task, "test_sites", shots, "best", features, metric, mean, None, None, n)


def rows():
    """Balanced accuracies .8, .6, .9 against .6, .7, .8: errors 1/2, 4/3 and 1/2 of the baseline's."""
    found = []
    for task, own, rival in (("land_cover", 0.8, 0.6), ("crop_type", 0.6, 0.7), ("change", 0.9, 0.8)):
        found += [row(task, 10, "balanced_accuracy", own), row(task, 10, "balanced_accuracy", rival, "series")]
        found.append(row(task, 10, "kappa_error_reduction", 1 - (1 - own) / (1 - rival)))
    found.append(row("land_cover", "max", "kappa_error_reduction", 0.9))  # alone: no mean
    return [*found, row("height", 10, "r2", 0.5)]


def test_the_mean_is_over_all_tasks_with_classes():
    (mean,) = mean_reductions(rows())
    assert mean.mean == pytest.approx((1 / 2 - 1 / 3 + 1 / 2) / 3)
    assert (mean.task, mean.shots, mean.metric, mean.features, mean.n) == (
        "mean", 10, "kappa_error_reduction", "embedding", 30,
    )  # fmt: skip
    assert mean_reductions([*rows(), mean]) == [mean]
    assert mean_reductions([row("height", 10, "r2", 0.5)]) == []


def test_report_file_and_benchmark_have_it(tmp_path):
    scores = [*rows(), *mean_reductions(rows())]
    write_scores(Storage(tmp_path), "scores.json", scores)
    assert read_scores(Storage(tmp_path), "scores.json") == scores
    page = verdict(scores)
    assert "50% less error" in page and "33% more error" in page
    assert "<b>mean, tasks with classes</b></td><td>22% less error</td>" in page
    stored = json.loads((tmp_path / "scores.json").read_text())
    lines = reduction_table(reductions(0, stored) + [
        {**one, "reduction": one["reduction"] + 0.1} for one in reductions(1, stored)
    ], [0, 1]).splitlines()  # fmt: skip
    assert lines[0].split() == ["error", "reduction", "shots", "seed", "0", "seed", "1", "mean"]
    assert lines[-1].split() == ["mean", "10", "+22.2%", "+32.2%", "+27.2%"]
