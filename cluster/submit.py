"""``aef submit``: run a stage as a job of a Ray cluster, follow its log, pass on its exit status."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shlex
import sys
import time
from pathlib import Path

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from pipelines.config import Config, ConfigError
from pipelines.stages.session import WORKER_ENVIRONMENT

PROJECT = Path(__file__).resolve().parent.parent
# The job's working directory travels through the cluster's control store: code and configuration only.
EXCLUDES = ["/.venv/", "/.git/", "/runs/", "/out/", "/tests/", "/docs/", "*.tif", "*.parquet", "*.pt", "__pycache__/"]
# A dashboard that answers nothing for this long (a head that restarts takes a minute) has been lost.
POLL_S = 2.0
LOST_AFTER = 60
JOB_ENVIRONMENT = {**WORKER_ENVIRONMENT, "PYTHONUNBUFFERED": "1"}


def entrypoint(options: argparse.Namespace, config: Config) -> str:
    """The command that the cluster runs.

    Raises:
        ConfigError: when the configuration file would not travel with the job.
    """
    path = Path(options.config).resolve()
    if not path.is_relative_to(PROJECT):
        raise ConfigError(
            f"--config {path} is outside {PROJECT}, which is what travels to the cluster; move it to configs/"
        )
    words = ["python", "-m", "pipelines.cli", options.stage, "--config", str(path.relative_to(PROJECT))]
    for assignment in options.overrides:
        words += ["--set", assignment]
    # A relative root would end inside the job's temporary copy of the code and be lost with it.
    words += ["--set", f"root={config.root}"]
    return shlex.join(words)


def referenced_environment(path: Path) -> dict[str, str]:
    """The environment variables that a configuration names, with their values here."""
    names = set(re.findall(r"\$\{(\w+)\}", path.read_text())) - {"root"}
    return {name: os.environ[name] for name in sorted(names) if name in os.environ}


def submit(options: argparse.Namespace, config: Config) -> int:
    """Submit, follow, return the job's exit status.

    Raises:
        ConfigError: when no cluster answers.
        ConnectionError: when it no longer answers while the job is followed.
    """
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ConfigError("--address: give the cluster's dashboard, e.g. --address http://127.0.0.1:8265")
    command = entrypoint(options, config)
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, AuthenticationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--address {address}: no Ray dashboard answers ({reason}); start the cluster or mend it"
        ) from error
    if options.job_id and _known(client, options.job_id):
        print(f"[submit] job {options.job_id} exists ({client.get_job_status(options.job_id)}); following it")
        job = options.job_id
    else:
        job = client.submit_job(
            entrypoint=command,
            submission_id=options.job_id,
            runtime_env={
                "working_dir": str(PROJECT),
                "excludes": EXCLUDES,
                "env_vars": {**JOB_ENVIRONMENT, **referenced_environment(Path(options.config))},
            },
        )
        print(f"[submit] job {job}: {command}", flush=True)
    if options.no_wait:
        return 0
    try:
        follow(client, job)
        return exit_status(client, job)
    except KeyboardInterrupt:
        print(f"[submit] the job goes on; stop it with: ray job stop {job} --address {address}", file=sys.stderr)
        raise
    except OSError as error:
        raise ConnectionError(
            f"--address {address}: lost the cluster's dashboard ({error}); job {job} may go on: "
            f"give the same command with --job-id {job} to follow it again"
        ) from error


def _known(client: JobSubmissionClient, job: str) -> bool:
    return any(details.submission_id == job for details in client.list_jobs())


class _Log:
    """What a job printed, each character once, though every connection gives the log from its start."""

    def __init__(self) -> None:
        self.shown = 0

    async def tail(self, client: JobSubmissionClient, job: str) -> None:
        """Print what is new until the connection ends."""
        position = 0
        async for lines in client.tail_job_logs(job):
            print(lines[max(self.shown - position, 0) :], end="", flush=True)
            position += len(lines)
            self.shown = max(self.shown, position)


def follow(client: JobSubmissionClient, job: str) -> None:
    """Print the job's log until the job has ended; a connection that ends before is made again.

    Raises:
        ConnectionError: the dashboard told no status ``LOST_AFTER`` times on end.
    """
    log, lost, ended = _Log(), 0, False
    while True:
        seen_to_end, broken = ended, False
        try:
            asyncio.run(log.tail(client, job))
        except (OSError, RuntimeError, aiohttp.ClientError):
            broken = True  # says nothing about the job; its status does
        try:
            ended, lost = client.get_job_status(job).is_terminal(), 0
        except (OSError, RuntimeError) as error:
            lost += 1
            if lost == LOST_AFTER:
                raise ConnectionError(" ".join(str(error).split())) from error
        # A log that broke off is asked for once more after the end, for its last lines.
        if ended and (seen_to_end or not broken):
            return
        time.sleep(POLL_S)


def exit_status(client: JobSubmissionClient, job: str) -> int:
    """0 for success, the driver's own status when it is known, else 1."""
    details = client.get_job_info(job)
    print(f"[submit] job {job}: {details.status}", flush=True)
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code = getattr(details, "driver_exit_code", None)
    if details.message and not code:
        print(f"[submit] {details.message.strip().splitlines()[-1]}", file=sys.stderr)
    return int(code) if code else 1
