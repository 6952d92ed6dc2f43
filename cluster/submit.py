"""``aef submit``: run a stage as a job of a Ray cluster, follow its log, pass on its exit status."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shlex
import sys
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from pipelines.config import Config, ConfigError
from pipelines.stages.session import WORKER_ENVIRONMENT

PROJECT = Path(__file__).resolve().parent.parent
# The job's working directory travels through the cluster's control store: code and configuration only.
EXCLUDES = ["/.venv/", "/.git/", "/runs/", "/out/", "/tests/", "/docs/", "*.tif", "*.parquet", "*.pt", "__pycache__/"]
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
    """
    address = options.address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not address:
        raise ConfigError("--address: give the cluster's dashboard, e.g. --address http://127.0.0.1:8265")
    command = entrypoint(options, config)
    try:
        client = JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
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
        asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        print(f"[submit] the job goes on; stop it with: ray job stop {job} --address {address}", file=sys.stderr)
        raise
    return exit_status(client, job)


def _known(client: JobSubmissionClient, job: str) -> bool:
    return any(details.submission_id == job for details in client.list_jobs())


async def _follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)


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
