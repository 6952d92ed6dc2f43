"""The evaluation on real labels and real time series, named by AEF_REAL_DATA."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation import labels, protocol
from pipelines.evaluation.baselines import PointSeries, composite, harmonics
from pipelines.evaluation.labels import LabelColumns, Task, TaskKind

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def root():
    if "AEF_REAL_DATA" not in os.environ:
        pytest.skip("AEF_REAL_DATA is not set")
    return Path(os.environ["AEF_REAL_DATA"]) / "real"


def test_crop_labels_split_by_field(root):
    files = sorted((root / "labels").glob("*/points.parquet"))
    columns = LabelColumns(group=("patch", "segment_id"), year="valid_from")
    table = labels.read_labels(files, columns)
    assert len(table) == 4096 + 4096 + 1307 and set(table.year) == {2019, 2021}
    points = labels.labelled(table, Task("crop", TaskKind.CLASSIFICATION, "label_name"))
    assert points.groupby("group").label.nunique().max() == 1  # a segment is of one label
    train, test = labels.split_by_groups(points.group, 0.4, 0, points.label)
    assert not set(points.group[train]) & set(points.group[test])
    assert set(points.label[test]) <= set(points.label[train])
    assert 0.3 < points.group[test].nunique() / points.group.nunique() < 0.5


def test_real_series_tell_crops_apart(root):
    table = pd.read_parquet(root / "series" / "2022_FRA_LPIS_POLY_110.geoparquet")
    table = table.sort_values(["sample_id", "timestamp"], kind="stable")
    bands = [name for name in table.columns if name.startswith(("S2-", "S1-"))]
    times = np.sort(table.timestamp.unique())
    samples = table.drop_duplicates("sample_id")
    values = table[bands].to_numpy(np.float32).reshape(len(samples), len(times), len(bands)).transpose(1, 2, 0)
    values[(values == 65535) | (values <= 0)] = np.nan
    series = PointSeries(np.log1p(values), pd.to_datetime(times).as_unit("ms").asi8, radar=False)
    features = {
        "annual_composite": composite(series).T,
        "harmonics": harmonics(series).reshape(-1, len(samples)).T,
        "noise": np.random.default_rng(0).normal(size=(len(samples), 16)).astype(np.float32),
    }
    cells = samples.h3_l3_cell.to_numpy().astype(str)
    crops = samples.ewoc_code.astype(str).to_numpy()
    train, test = labels.split_by_groups(samples.sample_id, 0.4, 0, crops)
    task = Task("crop", TaskKind.CLASSIFICATION, "ewoc_code")
    sites = np.char.add(
        cells, (samples.lon.round(1).astype(str) + samples.lat.round(1).astype(str)).to_numpy().astype(str)
    )
    scores = protocol.evaluate(
        features, crops, task, train, test, sites, [10], {10: 20}, settings=protocol.Settings(min_train=10, min_test=5)
    )
    best = {row.features: row for row in scores if row.head == "best" and row.metric == "balanced_accuracy"}
    assert best["harmonics"].low > best["noise"].high and best["annual_composite"].low > best["noise"].high
