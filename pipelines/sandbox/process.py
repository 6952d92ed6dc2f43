"""A sandbox server in a process of its own, for as long as a ``with`` block lasts. Imports no web framework."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx


class ServerError(ValueError):
    """The server could not be started; the message is what it said."""


@contextmanager
def running_server(
    catalog_path: str | Path,
    faults: Mapping[str, Any] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    timeout_s: float = 60.0,
) -> Iterator[str]:
    """Serve a static catalog from another process and give its base URL.

    The process ends with the block, and also when this process dies in any other way.

    Args:
        catalog_path: folder of a static STAC catalog.
        faults: name -> probability or settings, see :mod:`pipelines.sandbox.faults`.
        host: where to listen.
        port: 0 takes a free one.
        timeout_s: how long to wait for it to answer.

    Raises:
        ServerError: when it does not start.
    """
    command = [sys.executable, "-m", "pipelines.sandbox.server", "--until-stdin-closes", "--catalog", str(catalog_path)]
    command += ["--host", host, "--port", str(port), "--faults", json.dumps(faults or {})]
    here = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            url = _wait_until_ready(process, errors, timeout_s, str(catalog_path))
            yield url
        finally:
            _end(process)


def answers(url: str) -> bool:
    """Whether a sandbox server, whoever started it, answers at a URL."""
    try:
        return httpx.get(f"{url.rstrip('/')}/_mgmt/health", timeout=2).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def set_faults(url: str, faults: Mapping[str, Any]) -> None:
    """Put other faults in force on a running server.

    Raises:
        ValueError: when the server refuses them.
    """
    answer = httpx.put(f"{url}/_sandbox/faults", json=dict(faults), timeout=10)
    if answer.is_error:
        raise ValueError(answer.json().get("description", answer.text))


def served(url: str) -> dict[str, Any]:
    """What a running server has served since its faults were last set: requests and bytes by kind, faults struck."""
    report: dict[str, Any] = httpx.get(f"{url}/_sandbox/faults", timeout=10).raise_for_status().json()
    return report


def _wait_until_ready(process: subprocess.Popen[str], errors: IO[str], timeout_s: float, catalog: str) -> str:
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        line = lines.get(timeout=timeout_s)
    except queue.Empty:
        raise ServerError(f"the server of {catalog} did not answer within {timeout_s:g} s") from None
    if not line.startswith("ready "):
        process.wait(timeout=10)
        errors.seek(0)
        said = errors.read().strip().splitlines()
        raise ServerError((said[-1] if said else f"exit status {process.returncode}").removeprefix("error: "))
    url = line.split()[1]
    # The socket already listens, so this waits for the application rather than failing.
    httpx.get(f"{url}/_mgmt/health", timeout=timeout_s).raise_for_status()
    return url


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
