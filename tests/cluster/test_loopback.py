"""A real Ray head on loopback, the whole run submitted to it as a job: its log here, its exit status here."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.stages.running import CONFIG, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RAY = Path(sys.executable).parent / "ray"


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """The address of the dashboard of a head of our own, and the environment that reaches it."""
    # Sockets below the folder must fit into 107 characters.
    folder = tmp_path_factory.mktemp("ray")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_AUTH_MODE": "disabled",  # loopback only
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_TMPDIR": str(folder),
    }
    dashboard = free_port()
    command = [str(RAY), "start", "--head", "--block", f"--port={free_port()}", f"--temp-dir={folder}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
    command += [f"--dashboard-agent-grpc-port={free_port()}", f"--metrics-export-port={free_port()}"]
    command += ["--num-cpus=4", f"--object-store-memory={256 * 2**20}", "--disable-usage-stats"]
    log = folder / "start.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_for(f"{address}/api/version", process, log)
        yield address, environment
    finally:
        family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                pass
        process.wait()


def _wait_for(url, process, log):
    end = time.monotonic() + 120
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"no dashboard at {url}: {log.read_text()}")


def submit(head, tmp_path, stage, *overrides, arguments=()):
    address, environment = head
    port = free_port()
    words = [sys.executable, "-m", "pipelines.cli", "submit", stage, "--config", str(CONFIG), "--address", address]
    for setting in (
        f"root={tmp_path}/root",
        f"sandbox.port={port}",
        f"catalogs.sandbox.url=http://127.0.0.1:{port}",
        *overrides,
    ):
        words += ["--set", setting]
    return subprocess.run(
        [*words, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=500
    )


def test_a_submitted_run_runs_there_and_is_followed_here(head, tmp_path):
    small = ("train.steps=2", "plan.sites=24", "evaluate.repeats={1: 4, 10: 2, max: 1}")
    done = submit(head, tmp_path, "run", *small, arguments=["--job-id", "once"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[submit] job once: python -m pipelines.cli run --config configs/sandbox_tiny.yaml" in done.stdout
    for stage in ("sandbox", "plan", "ingest", "train", "embed", "evaluate"):
        assert f"== {stage}\n" in done.stdout  # the job's own lines
    assert "[submit] job once: SUCCEEDED" in done.stdout
    summary = tmp_path / "root/reports/summary.json"
    stages = json.loads(summary.read_text())["stages"]
    assert all(row["written"] > 0 and row["failed"] == 0 for row in stages.values()) and len(stages) == 6
    assert (tmp_path / "root/reports/report.html").stat().st_size > 100_000

    stamp = summary.stat().st_mtime_ns
    again = submit(head, tmp_path, "run", *small, arguments=["--job-id", "once"])
    assert again.returncode == 0 and "job once exists" in again.stdout
    assert summary.stat().st_mtime_ns == stamp


def test_a_failing_job_is_a_failing_command_and_its_reason_is_seen(head, tmp_path):
    (tmp_path / "file").write_text("a file where a folder should be")
    done = submit(head, tmp_path, "plan", f"root={tmp_path}/file/root")
    assert done.returncode != 0
    assert "aef plan: error: root " in done.stdout and "not writable" in done.stdout
    assert "FAILED" in done.stdout and "Traceback" not in done.stdout + done.stderr
