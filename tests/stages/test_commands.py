"""What commands say that need neither data nor a cluster: one line, its remedy, and the exit status."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.sandbox.build import BuildResult
from pipelines.storage import Storage

CONFIG = Path(__file__).parent.parent.parent / "configs" / "sandbox_tiny.yaml"


@pytest.fixture
def aef(tmp_path, capsys):
    """A command over an empty root of the smallest configuration: status, standard output, standard error."""

    def _aef(*words, config=True):
        given = ["--config", str(CONFIG), "--set", f"root={tmp_path / 'root'}"] if config else []
        status = main([*words, *given])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return _aef


def test_nothing_to_verify_is_an_error(aef, tmp_path):
    status, out, err = aef("verify")
    assert status == 2 and out == ""
    root = tmp_path / "root"
    remedy = "check the root, or run `aef embed` first"
    assert err == f"aef verify: error: {CONFIG}: root: no committed tile under {root}; {remedy}\n"


def test_a_built_sandbox_says_where_it_is_and_what_serves_it(aef, tmp_path, monkeypatch):
    counts = {"sentinel-2-l2a": 20, "texts": 1}
    made = BuildResult(tmp_path, tmp_path / "catalog/catalog.json", "id", 21, counts, 3 * 2**20, 9.6)
    for result, done in ((made, "21 items built in 10 s"), (replace(made, built=0), "built already")):
        monkeypatch.setattr("pipelines.sandbox.build.build", lambda *_, _result=result, **__: _result)
        status, out, _ = aef("sandbox", "build", config=False)
        serve = f"`aef sandbox serve --catalog {tmp_path}/catalog` serves them"
        assert (status, out) == (0, f"[sandbox] {done}: 21 items, 3 MiB at {tmp_path}; {serve}\n")


def test_a_sandbox_that_cannot_be_written_asks_for_another_folder(aef, tmp_path):
    (tmp_path / "file").write_text("")
    for path in ("/proc/yy", tmp_path / "file" / "yy"):
        status, _, err = aef("sandbox", "build", "--path", str(path), "--size", "tiny", config=False)
        assert status == 1
        assert err.startswith(f"aef sandbox: error: {path} is not writable (") and err.count("\n") == 1
        assert err.endswith("); choose another folder for the sandbox\n")


def test_faults_are_said_as_in_a_configuration(aef, monkeypatch):
    served = []
    monkeypatch.setattr("pipelines.sandbox.server.serve", lambda *_, faults, **__: served.append(faults))
    words = ["--fault", "unavailable=0.05", "--fault", "latency={probability: 1, seconds: 7}"]
    assert aef("sandbox", "serve", *words, config=False)[0] == 0
    assert served == [{"unavailable": 0.05, "latency": {"probability": 1, "seconds": 7}}]
    for text in ("latency", "latency=", "latency={"):
        status, _, err = aef("sandbox", "serve", "--fault", text, config=False)
        assert (status, err) == (
            2,
            f"aef sandbox: error: --fault {text}: write NAME=PROBABILITY, e.g. unavailable=0.05\n",
        )


def test_the_doctor_looks_at_disk_and_port_with_and_without_a_configuration(aef, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, _ = aef("doctor", "--set", f"sandbox.port={port}")
    assert status == 1
    assert f"FAIL port {port} of 127.0.0.1 is taken; choose another with --set sandbox.port={port + 1}" in out
    assert f"ok   root {tmp_path}/root is writable" in out and " GiB free under the root" in out
    _, out, _ = aef("doctor", config=False)
    assert " GiB free in the working directory" in out and "port 8591 of 127.0.0.1 is " in out


def test_the_doctor_has_nothing_to_override_without_a_configuration(aef):
    status, out, err = aef("doctor", "--set", "sandbox.port=1", config=False)
    assert (status, out) == (2, "")
    assert err == "aef doctor: error: --set overrides values of a configuration: give --config FILE too\n"


@pytest.mark.parametrize(
    ("stage", "missing"),
    [
        ("ingest", "no plan under {root}; run `aef plan` first"),
        ("train", "no complete shard set under {root}; run `aef ingest` first"),
        ("embed", "no plan under {root}; run `aef plan` first"),
        ("evaluate", "no plan under {root}; run `aef plan` first"),
    ],
)
def test_a_stage_without_the_stage_before_starts_nothing(aef, tmp_path, stage, missing, monkeypatch):
    monkeypatch.setattr("pipelines.stages.commands.build_earth", lambda _: pytest.fail("rendered an Earth"))
    monkeypatch.setattr("pipelines.stages.commands.ray_session", lambda _: pytest.fail("started Ray"))
    root = tmp_path / "root"
    assert aef(stage) == (2, "", f"aef {stage}: error: {CONFIG}: root: {missing.format(root=root)}\n")
    assert not list(root.iterdir())


def test_a_stage_further_on_names_the_stage_that_is_missing(aef, tmp_path):
    storage = Storage(str(tmp_path / "root"))
    storage.write_json("plan/plan.json", {})
    assert "no trained model" in aef("embed")[2]
    assert "no complete shard set" in aef("evaluate")[2]
    storage.write_json("shards/current.json", {"shards": []})
    assert "no trained model" in aef("evaluate")[2]
    storage.write_json("checkpoints/current.json", {"digest": "d", "path": "checkpoints/x.pt"})
    assert "no committed tile" in aef("evaluate")[2]
