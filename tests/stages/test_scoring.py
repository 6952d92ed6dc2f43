"""The table of scores, made in parts by several processes at once."""

import numpy as np
import pandas as pd
import pytest

from pipelines.stages.scoring import all_scores, task_scores
from pipelines.stages.session import ray_session
from tests.stages.worlds import config

TASKS = [
    {"name": "land_cover", "kind": "classification", "column": "land_cover", "year": 2021},
    {"name": "height", "kind": "regression", "column": "height_m"},
    {"name": "change", "kind": "change", "column": "changed", "year": 2021, "year_after": 2022},
]


def world(tasks=TASKS):
    """400 parcels seen in two years, half of them in test sites; features that tell classes and change apart."""
    rng = np.random.default_rng(4)
    parcels = 400
    cover = rng.integers(0, 3, (2, parcels))
    changed = cover[0] != cover[1]
    tables = [
        pd.DataFrame(
            {
                "group": np.arange(parcels).astype(str),
                "year": 2021 + year,
                "lon": 0.0,
                "lat": 0.0,
                "land_cover": cover[year].astype(str),
                "height_m": 3.0 * cover[year] + rng.normal(size=parcels),
                "changed": changed if year else None,
                "site": [f"site{parcel // 20}" for parcel in range(parcels)],
                "site_split": np.where(np.arange(parcels) < parcels // 2, "train", "test"),
            }
        )
        for year in range(2)
    ]
    truth = np.concatenate(cover)
    shown = np.eye(3)[truth] + 0.5 * rng.normal(size=(2 * parcels, 3))
    features = {
        "embedding": shown.astype(np.float32),
        "annual": (shown[:, :2] + rng.normal(size=(2 * parcels, 2))).astype(np.float32),
        "xy": rng.normal(size=(2 * parcels, 2)).astype(np.float32),
    }
    evaluation = {"labels": ["/none.parquet"], "tasks": tasks, "repeats": {1: 4, 10: 3, "max": 2}}
    years = [[f"{year}-01-01", f"{year + 1}-01-01"] for year in (2021, 2022)]
    return config(periods=years, evaluate=evaluation, ray={"cpus": 2}), pd.concat(tables, ignore_index=True), features


def test_parts_that_run_side_by_side_give_the_rows_of_one_pass_in_its_order():
    configured, points, features = world()
    shots = list(configured.evaluate.shots)
    at_once = [
        row for part in configured.evaluate.tasks for row in task_scores(configured, part, points, features, shots)
    ]
    told = []
    with ray_session(configured):
        rows = all_scores(configured, points, features, lambda done, total: told.append((done, total)))
    key = lambda row: (row.task, str(row.shots), row.head, row.features, row.metric)  # noqa: E731
    assert sorted(rows, key=key) == sorted(at_once, key=key)
    assert list(dict.fromkeys(row.task for row in rows)) == ["land_cover", "height", "change", "change_unsupervised"]
    assert sum(row.task == "change_unsupervised" and row.features == "xy" for row in rows) == 0
    assert told[-1] == (9, 9)


def test_labels_that_do_not_suffice_are_told_as_one_error():
    configured, points, features = world(TASKS[:1])
    points.loc[points.site_split == "test", "land_cover"] = "9"
    with ray_session(configured), pytest.raises(ValueError, match="task land_cover: fewer than two classes") as caught:
        all_scores(configured, points, features, lambda done, total: None)
    assert "\n" not in str(caught.value)
