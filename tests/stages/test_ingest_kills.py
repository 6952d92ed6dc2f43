"""Drivers, workers and nodes killed while shards are made: the shard set is, byte for byte, that of an unharmed run."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.stages.running import PROJECT, content, descendants, free_port, kill_driver, stamps, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
RAY = Path(sys.executable).parent / "ray"
# What a worker is called while it reads a group, and only then.
READING = "GroupReader"
SHARDS = "shards/*/*.shard.parquet"


@contextlib.contextmanager
def node(*words, folder):
    """``ray start --block``: one node of our own on loopback, ended with the block."""
    ports = ("node-manager-port", "object-manager-port", "dashboard-agent-listen-port", "metrics-export-port")
    command = [str(RAY), "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *words]
    command += [f"--{name}={free_port()}" for name in (*ports, "dashboard-agent-grpc-port")]
    command += [f"--object-store-memory={128 * 2**20}"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(folder), "PYTHONPATH": str(PROJECT)}
    path = folder / f"node_{free_port()}.log"
    with path.open("w") as log:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: process.poll() is not None or "Ray runtime started" in path.read_text())
        assert process.poll() is None, path.read_text()
        yield process
    finally:
        kill(process)
        process.wait()


def kill(process):
    """SIGKILL to a node: its own daemon and all that it started, by their ids."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for member in (*psutil.Process(process.pid).children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()


@pytest.fixture
def cluster(tmp_path_factory, monkeypatch):
    """Address of a head without CPUs, and the two nodes that do the work."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # loopback only
    # Sockets below the folder must fit into 107 characters.
    folder, port = tmp_path_factory.mktemp("r"), free_port()
    address = f"127.0.0.1:{port}"
    head = ("--head", f"--port={port}", f"--temp-dir={folder}", "--num-cpus=0", "--include-dashboard=false")
    joined = (f"--address={address}", "--num-cpus=2")
    # One after the other: two that join at once may be given one name, and then the second does not start.
    with (
        node(*head, f"--ray-client-server-port={free_port()}", folder=folder),
        node(*joined, folder=folder) as one,
        node(*joined, folder=folder) as two,
    ):
        yield address, (one, two)


@pytest.fixture
def whole(finished):
    """An unharmed run."""
    return finished[0]


@pytest.fixture
def harmed(continued):
    """The same plan in a root of its own."""
    return continued("plan")


def groups(aef):
    return list(aef.root.glob("shards/*/*_*.json"))


def check_same_bytes(aef, whole):
    for pattern in (SHARDS, "shards/*.json", "shards/*/*.json"):
        assert content(whole.root, pattern) and content(aef.root, pattern) == content(whole.root, pattern), pattern
    row = json.loads((aef.root / "reports/summary.json").read_text())["stages"]["ingest"]
    assert row["failed"] == 0 and row["written"] + row["skipped"] == row["planned"]


def test_ingest_goes_on_when_a_node_dies(whole, harmed, cluster):
    address, nodes = cluster
    victims = []

    def seen_at_work():
        if len(groups(harmed)) >= 2:
            victims.extend(one for one in nodes if descendants(one.pid, READING))
        return victims != []

    with harmed.started("ingest", f"ray.address={address}") as process:
        wait_until(seen_at_work, process)
        kill(victims[0])
        assert victims[0].wait(timeout=20) != 0
        assert any(one.poll() is None for one in nodes)
        assert len(groups(harmed)) < len(groups(whole))
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err + out
    check_same_bytes(harmed, whole)


def test_ingest_goes_on_when_a_worker_dies(whole, harmed):
    victims = []

    def seen_at_work():
        if groups(harmed):
            victims.extend(descendants(process.pid, READING))
        return victims != []

    with harmed.started("ingest") as process:
        wait_until(seen_at_work, process)
        victims[0].kill()
        assert len(groups(harmed)) < len(groups(whole))
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err + out
    check_same_bytes(harmed, whole)


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_ingest_continues_after_its_driver_was_killed_early_or_late(whole, harmed, share):
    """Early: nothing is committed, a group is being read. Late: hardly anything is left."""
    wanted = int(share * len(groups(whole)))

    def come_so_far():
        return len(groups(harmed)) >= wanted and descendants(process.pid, READING) != []

    with harmed.started("ingest") as process:
        wait_until(come_so_far, process)
        kill_driver(process)
    committed = groups(harmed)
    assert wanted <= len(committed) < len(groups(whole))
    kept = stamps(harmed.root, "shards/*/*_*.json")
    shards = stamps(harmed.root, SHARDS)
    named = {shard["path"] for group in committed for shard in json.loads(group.read_text())["shards"]}
    done = harmed.run("ingest")
    assert done.status == 0, done.err + done.out
    # A shard whose group was not committed may be written again.
    kept |= {path: shards[path] for path in named}
    after = stamps(harmed.root, "shards/*/*_*.json") | stamps(harmed.root, SHARDS)
    assert all(after[path] == stamp for path, stamp in kept.items())
    check_same_bytes(harmed, whole)
