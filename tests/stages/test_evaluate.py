"""Where labels and truth may lie, and which ground of a map was held out."""

import hashlib
import uuid

import numpy as np
import pytest

from pipelines.config import ConfigError, PlanConfig
from pipelines.grid import WGS84, Window, transformer
from pipelines.stages import evaluate
from pipelines.stages.pictures import View
from pipelines.stages.probe_points import label_files
from pipelines.stages.report_contents import held_out_ground
from pipelines.storage import Storage
from tests.stages.worlds import config

TASK = {"name": "land_cover", "kind": "classification", "column": "land_cover"}


def settings(root="memory://", **evaluation):
    return config(root, evaluate={"labels": ["/none.parquet"], "tasks": [TASK], **evaluation})


def test_label_patterns_may_be_uris_and_one_that_nothing_fits_stands_for_itself():
    there = Storage(f"memory://{uuid.uuid4().hex}")
    there.write_bytes_atomic("a.parquet", b"labels")
    patterns = [there.uri("*.parquet"), there.uri("none*.parquet")]
    first, second = label_files(settings(labels=patterns))
    assert first.startswith("memory://") and first.endswith("/a.parquet") and second == patterns[1]
    assert evaluate.label_digests(settings(labels=patterns)) == [
        (first, hashlib.sha256(b"labels").hexdigest()),
        (second, ""),  # reported where the labels are read
    ]


def test_labels_of_a_store_that_is_not_known_are_named():
    with pytest.raises(ConfigError, match=r"evaluate\.labels: ftps://h/\*\.parquet: .*; use paths, s3:// or gs://"):
        label_files(settings(labels=["ftps://h/*.parquet"]))


def test_truth_that_is_not_on_this_machine_is_refused_before_anything_is_computed():
    with pytest.raises(ConfigError, match=r"evaluate\.truth: s3://b/truth is not a folder of this machine; copy"):
        evaluate.run(settings(truth="s3://b/truth"))


def test_held_out_ground_is_that_of_the_test_area():
    view = View("here", Window(32631, 500_000, 5_600_000, 8, 6, 100), ())
    lon, _ = transformer(32631, WGS84).transform(500_300, 5_599_700)
    east_half = settings().model_copy(update={"plan": PlanConfig(test_area=(lon, 40.0, 9.0, 60.0))})
    held_out = held_out_ground(east_half, view)
    assert held_out is not None and held_out.shape == (6, 8)
    assert (held_out == (np.arange(8) >= 3)).all()
    assert held_out_ground(settings(), view) is None
