"""Killed workers and killed runs: the work goes on, nothing committed is lost or made twice."""

import json
import signal

import pytest

from tests.stages.running import content, descendants, kill_driver, stamps, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TILES = "embeddings/v1/*/*/*.tiff"
RECEIPTS = "embeddings/v1/*/*/*.receipt.json"


def kill_one(process, title):
    """SIGKILL one of the worker processes of a kind."""
    victims = descendants(process.pid, title)
    assert victims, f"no process called {title}: {[p.cmdline() for p in descendants(process.pid)]}"
    victims[-1].kill()


def row(aef, stage):
    return json.loads((aef.root / "reports/summary.json").read_text())["stages"][stage]


def test_training_goes_on_when_a_worker_is_killed_and_ends_at_the_same_weights(finished, continued):
    whole, _ = finished
    aef = continued("plan", "shards")
    with aef.started("train") as process:
        wait_until(lambda: any(aef.root.glob("checkpoints/*/step_00000008.pt")), process)
        kill_one(process, "RayTrainWorker")
        _out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert row(aef, "train")["written"] == 24 and row(aef, "train")["failed"] == 0
    ends = [json.loads((root / "checkpoints/current.json").read_text()) for root in (aef.root, whole.root)]
    assert ends[0] == ends[1]


def test_an_interrupted_training_says_that_it_can_be_continued(continued):
    aef = continued("plan", "shards")
    with aef.started("train", "train.steps=4000") as process:
        wait_until(lambda: any(aef.root.glob("checkpoints/*/step_*.pt")), process)
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command to continue" in err, err


def test_embedding_goes_on_when_a_worker_is_killed_and_makes_the_same_tiles(finished, continued):
    whole, _ = finished
    aef = continued("plan", "shards", "checkpoints")
    with aef.started("embed") as process:
        wait_until(lambda: len(list(aef.root.glob(RECEIPTS))) >= 2, process)
        kill_one(process, "TileEmbedder")
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err + out
    assert row(aef, "embed")["failed"] == 0
    assert content(aef.root, TILES) == content(whole.root, TILES)
    assert aef.run("verify").status == 0


def test_a_killed_mapping_continues_where_it_was(finished, continued):
    whole, _ = finished
    aef = continued("plan", "shards", "checkpoints")
    with aef.started("embed") as process:
        wait_until(lambda: len(list(aef.root.glob(RECEIPTS))) >= 3, process)
        kill_driver(process)
    kept = stamps(aef.root, RECEIPTS)
    assert 3 <= len(kept) < len(list(whole.root.glob(RECEIPTS)))
    done = aef.run("embed")
    assert done.status == 0, done.err
    assert row(aef, "embed")["skipped"] == len(kept)
    assert row(aef, "embed")["written"] == row(aef, "embed")["planned"] - len(kept)
    after = stamps(aef.root, RECEIPTS)
    assert all(after[path] == stamp for path, stamp in kept.items())
    assert content(aef.root, TILES) == content(whole.root, TILES)
    assert aef.run("verify").status == 0
