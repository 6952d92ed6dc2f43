"""What training refuses before it starts."""

import pytest
import torch

from pipelines.config import ConfigError
from pipelines.products.tile import receipt_path
from pipelines.stages import train
from pipelines.storage import Storage
from tests.stages.test_checkpoint import statistics
from tests.stages.worlds import config

PATHS = ["shards/train/a.shard.parquet"]


@pytest.fixture
def trained(tmp_path):
    """A root whose model is trained to its end, and the settings that it was trained with."""
    storage, settings = Storage(tmp_path), config(tmp_path, ingest={"text_encoder": None})
    storage.write_json("shards/current.json", {"shards": PATHS})
    storage.write_bytes_atomic("shards/statistics.json", statistics().to_json().encode())
    run = train.run_identity(settings, PATHS, statistics())
    storage.write_json(train.CURRENT, {"path": "checkpoints/x.pt", "digest": "d", "identity": run})
    return storage, settings


def other(settings):
    return config(settings.root, ingest={"text_encoder": None}, train={"learning_rate": 0.1})


def no_training(monkeypatch):
    def started(*_):
        raise RuntimeError("training started")

    monkeypatch.setattr(train, "open_shards", started)


def test_a_second_model_is_refused_before_its_training_where_tiles_of_the_first_are(trained, monkeypatch):
    storage, settings = trained
    no_training(monkeypatch)
    storage.write_json(receipt_path("31N_1_2", "2021"), {})
    with pytest.raises(ConfigError, match=r"tiles of the model of run .*: choose another root, or delete embeddings/"):
        train.run(other(settings))
    with pytest.raises(RuntimeError, match="training started"):
        train.run(settings)  # the same model again


def test_a_second_model_may_be_trained_where_no_tile_is(trained, monkeypatch):
    no_training(monkeypatch)
    with pytest.raises(RuntimeError, match="training started"):
        train.run(other(trained[1]))


def test_the_loss_of_a_student_that_runs_seldom_is_in_the_history():
    """Every 16th of 100 steps, never one of those that end ten."""
    log, rows = train.TermLog(), []
    for step in range(100):
        losses = {"reconstruction": torch.tensor(float(step))}
        if step % 16 == 0:
            losses["consistency"] = torch.tensor(step / 16)
        log.add(losses)
        if (step + 1) % train.REPORT_EVERY == 0:
            rows.append(log.take())
    assert [row["consistency"] for row in rows if "consistency" in row] == [0, 1, 2, 3, 4, 5, 6]
    assert [row["reconstruction"] for row in rows] == list(range(9, 100, 10))


def test_a_progress_line_names_all_terms():
    row = {"text": 3.0, "total": 1.5, "consistency": 0.25, "uniformity": 0.125, "reconstruction": 0.5, "step": 10}
    text = "loss 1.500 (reconstruction 0.500, uniformity 0.125, consistency 0.250, text 3.000)"
    assert train.loss_text(row) == text
    assert train.loss_text({"total": 1.5}) == "loss 1.500"
