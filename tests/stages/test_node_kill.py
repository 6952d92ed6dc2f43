"""A node of the cluster dies while shards are made: the others finish, with the bytes of an unharmed run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.stages.running import PROJECT, Aef, content, descendants, free_port, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RAY = Path(sys.executable).parent / "ray"
# What a worker is called while it reads a group, and only then.
READING = "GroupReader"


@contextlib.contextmanager
def node(*words, folder):
    """``ray start --block``: one node of our own on loopback, ended with the block."""
    ports = ("node-manager-port", "object-manager-port", "dashboard-agent-listen-port", "metrics-export-port")
    command = [str(RAY), "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats", *words]
    command += [f"--{name}={free_port()}" for name in (*ports, "dashboard-agent-grpc-port")]
    command += [f"--object-store-memory={128 * 2**20}"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(folder), "PYTHONPATH": str(PROJECT)}
    with (folder / f"node_{free_port()}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
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
    with node(*head, f"--ray-client-server-port={free_port()}", folder=folder) as first:
        wait_until(lambda: descendants(first.pid, "raylet/raylet") != [], first)
        joined = (f"--address={address}", "--num-cpus=2")
        with node(*joined, folder=folder) as one, node(*joined, folder=folder) as two:
            for worker in (one, two):
                wait_until(lambda worker=worker: descendants(worker.pid, "raylet/raylet") != [], worker)
            yield address, (one, two)


def groups(aef):
    return list(aef.root.glob("shards/*/*_*.json"))


def test_ingest_goes_on_when_a_node_dies_and_makes_the_same_bytes(tmp_path, cluster):
    address, nodes = cluster
    whole = Aef(tmp_path / "whole", tmp_path / "sandbox", free_port())
    for stage in ("plan", "ingest"):
        done = whole.run(stage)
        assert done.status == 0, done.err + done.out
    aef = Aef(tmp_path / "harmed", whole.sandbox, whole.port)
    shutil.copytree(whole.root / "plan", aef.root / "plan")

    victims = []

    def seen_at_work():
        if len(groups(aef)) >= 2:
            victims.extend(one for one in nodes if descendants(one.pid, READING))
        return victims != []

    with aef.started("ingest", f"ray.address={address}") as process:
        wait_until(seen_at_work, process)
        kill(victims[0])
        assert victims[0].wait(timeout=20) != 0
        assert len(groups(aef)) < len(groups(whole))
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err + out
    row = json.loads((aef.root / "reports/summary.json").read_text())["stages"]["ingest"]
    assert row["failed"] == 0 and row["written"] == row["planned"] - row["skipped"]
    for pattern in ("shards/*/*.shard.parquet", "shards/*.json", "shards/*/*.json"):
        assert content(aef.root, pattern) == content(whole.root, pattern), pattern
