"""``aef submit`` without a cluster: what the job runs, what travels with it, what its end means here."""

import argparse
import shlex
import socket
from types import SimpleNamespace

import aiohttp
import pytest
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from cluster import submit as submitting
from cluster.submit import PROJECT, entrypoint, exit_status, referenced_environment, submit
from pipelines.cli import main
from pipelines.config import ConfigError, load_config

CONFIG = "configs/sandbox_tiny.yaml"


def options(**changes):
    settings = {"stage": "plan", "config": str(PROJECT / CONFIG), "overrides": [], "address": None, "job_id": None}
    return argparse.Namespace(**{**settings, "no_wait": False, **changes})


def configured(*overrides):
    return load_config(PROJECT / CONFIG, overrides)


def test_the_job_runs_the_same_stage_with_the_same_words(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # from wherever it is submitted
    overrides = ["train.overrides={blocks: 2}", "seed=3"]
    words = shlex.split(entrypoint(options(stage="run", overrides=overrides), configured("root=/data/out")))
    assert words[:6] == ["python", "-m", "pipelines.cli", "run", "--config", CONFIG]
    assert words[6:10] == ["--set", overrides[0], "--set", overrides[1]]


def test_the_root_that_is_sent_is_absolute_and_has_the_last_word(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    overrides = ["root=results"]
    words = shlex.split(entrypoint(options(overrides=overrides), configured(*overrides)))
    assert words[-2:] == ["--set", f"root={tmp_path}/results"]
    words = shlex.split(entrypoint(options(), configured("root=s3://bucket/run")))
    assert words[-2:] == ["--set", "root=s3://bucket/run"]


def test_a_configuration_that_would_stay_behind_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((PROJECT / CONFIG).read_text())
    with pytest.raises(ConfigError, match=r"mine\.yaml is outside .*; move it to configs/"):
        entrypoint(options(config=str(path)), configured())


def test_variables_that_the_configuration_names_travel_and_no_others(tmp_path, monkeypatch):
    path = tmp_path / "c.yaml"
    path.write_text('a: "${AEF_ONE}"\nb: "${root}/x${AEF_TWO}"\nc: "${AEF_THREE}"\n')
    monkeypatch.setenv("AEF_ONE", "1")
    monkeypatch.setenv("AEF_TWO", "2")
    monkeypatch.setenv("AEF_SECRET", "no")
    monkeypatch.setenv("root", "no")
    monkeypatch.delenv("AEF_THREE", raising=False)
    assert referenced_environment(path) == {"AEF_ONE": "1", "AEF_TWO": "2"}


def test_no_address_and_no_cluster_are_said_in_one_line(monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(ConfigError, match=r"--address: give the cluster's dashboard"):
        submit(options(), configured())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(ConfigError, match=f"--address {address}: no Ray dashboard answers") as caught:
        submit(options(address=address), configured())
    assert "\n" not in str(caught.value)


class FakeClient:
    """The five calls that submitting makes, as Ray's client answers them."""

    def __init__(self, status, code=None, message="", known=()):
        self.details = SimpleNamespace(status=status, driver_exit_code=code, message=message)
        self.known, self.submitted = known, []

    def list_jobs(self):
        return [SimpleNamespace(submission_id=name) for name in self.known]

    def get_job_status(self, job):
        return self.details.status

    def get_job_info(self, job):
        return self.details

    def submit_job(self, **arguments):
        self.submitted.append(arguments)
        return arguments["submission_id"] or "made-up"

    async def tail_job_logs(self, job):
        for line in ("[plan] one\n", "[plan] two\n"):
            yield line


@pytest.mark.parametrize(
    ("client", "status"),
    [
        (FakeClient(JobStatus.SUCCEEDED, 0), 0),
        (FakeClient(JobStatus.FAILED, 3, "Job entrypoint command failed\nwith exit code 3"), 3),
        (FakeClient(JobStatus.FAILED, None, "runtime environment\nbroke"), 1),
        (FakeClient(JobStatus.FAILED, 0, "supervisor died"), 1),
        (FakeClient(JobStatus.STOPPED), 1),
    ],
)
def test_the_jobs_end_is_the_commands_end(client, status):
    assert exit_status(client, "job") == status


def test_a_job_is_submitted_once_followed_and_its_status_passed_on(monkeypatch, capsys):
    client = FakeClient(JobStatus.FAILED, 2, known=["other"])
    monkeypatch.setattr(submitting, "JobSubmissionClient", lambda address: client)
    wanted = options(address="http://x", job_id="nightly", config=str(PROJECT / "configs/real_fixtures.yaml"))
    monkeypatch.setenv("AEF_REAL_DATA", "/data")
    config = load_config(wanted.config)
    assert submit(wanted, config) == 2
    assert "[plan] one\n[plan] two\n" in capsys.readouterr().out
    (job,) = client.submitted
    assert job["submission_id"] == "nightly" and job["entrypoint"].startswith("python -m pipelines.cli plan")
    environment = job["runtime_env"]
    assert environment["working_dir"] == str(PROJECT) and environment["env_vars"]["AEF_REAL_DATA"] == "/data"
    assert {"/.venv/", "/.git/", "/runs/"} <= set(environment["excludes"])

    client.known = ["nightly"]
    assert submit(wanted, config) == 2
    assert len(client.submitted) == 1
    assert "job nightly exists" in capsys.readouterr().out


def test_without_waiting_the_submission_is_all(monkeypatch):
    client = FakeClient(JobStatus.PENDING)
    monkeypatch.setattr(submitting, "JobSubmissionClient", lambda address: client)
    assert submit(options(address="http://x", no_wait=True), configured()) == 0
    assert len(client.submitted) == 1


class Flaky(FakeClient):
    """A dashboard whose log connections and status answers go as they are told, in turn; the last one stays."""

    def __init__(self, tails, statuses):
        super().__init__(JobStatus.SUCCEEDED, 0)
        self.tails, self.statuses = list(tails), list(statuses)

    async def tail_job_logs(self, job):
        for part in self.tails.pop(0) if len(self.tails) > 1 else self.tails[0]:
            if isinstance(part, Exception):
                raise part
            yield part

    def get_job_status(self, job):
        answer = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


BROKEN = RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
GONE = requests.ConnectionError("Connection refused")
RUNNING, DONE = JobStatus.RUNNING, JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("tails", "statuses"),
    [
        ([["one\n", BROKEN], ["one\n", "two\n", "three\n"]], [RUNNING, DONE]),  # broken, then whole
        ([["one\n"], ["one\n", "two\nthr"], ["one\ntwo\n", "three\n"]], [RUNNING, RUNNING, DONE]),  # closed early
        ([["one\n", BROKEN], ["one\ntwo\nthree\n"]], [DONE]),  # ended while the log was away
        ([["one\n", aiohttp.ClientError("reset")], [GONE], ["one\ntwo\nthree\n"]], [GONE, BROKEN, DONE]),
    ],
)
def test_a_connection_that_ends_before_the_job_is_made_again_and_no_line_comes_twice(
    tails, statuses, monkeypatch, capsys
):
    client = Flaky(tails, statuses)
    monkeypatch.setattr(submitting, "JobSubmissionClient", lambda address: client)
    monkeypatch.setattr(submitting, "POLL_S", 0)
    assert submit(options(address="http://x", job_id="j"), configured()) == 0
    assert "one\ntwo\nthree\n[submit] job j: SUCCEEDED" in capsys.readouterr().out


def test_a_cluster_that_is_lost_for_good_is_said_in_one_line(monkeypatch, capsys):
    client = Flaky([["one\n"], [GONE]], [RUNNING, GONE])
    monkeypatch.setattr(submitting, "JobSubmissionClient", lambda address: client)
    monkeypatch.setattr(submitting, "POLL_S", 0)
    words = ["submit", "plan", "--config", str(PROJECT / CONFIG), "--address", "http://x", "--job-id", "j"]
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("aef submit: error: --address http://x: lost the cluster's dashboard (Connection refused)")
    assert "--job-id j to follow it again" in line


def test_a_missing_token_is_said_in_one_line(monkeypatch):
    def refuse(address):
        raise AuthenticationError("Unauthorized: no token\nset RAY_AUTH_MODE")

    monkeypatch.setattr(submitting, "JobSubmissionClient", refuse)
    with pytest.raises(ConfigError, match=r"--address http://x: no Ray dashboard answers \(Unauthorized: no token"):
        submit(options(address="http://x"), configured())
