"""Runs of ``aef`` in processes of their own, as a user starts them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

PROJECT = Path(__file__).parent.parent.parent
CONFIG = PROJECT / "configs" / "sandbox_tiny.yaml"
# The files that Ray's agents of a node are started from.
AGENTS = ("ray/dashboard/agent.py", "ray/_private/runtime_env/agent/main.py")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Aef:
    """The command line for one root; all roots of a session share one synthetic Earth and one port."""

    root: Path
    sandbox: Path
    port: int

    def words(self, stage: str, *overrides: str, flags: tuple[str, ...] = ()) -> list[str]:
        settings = [
            f"root={self.root}",
            f"sandbox.path={self.sandbox}",
            f"sandbox.port={self.port}",
            f"catalogs.sandbox.url=http://127.0.0.1:{self.port}",
            *overrides,
        ]
        words = [sys.executable, "-m", "pipelines.cli", stage, "--config", str(CONFIG), *flags]
        return words + [word for setting in settings for word in ("--set", setting)]

    def run(self, stage: str, *overrides: str, flags: tuple[str, ...] = (), timeout: float = 280) -> Done:
        with self.started(stage, *overrides, flags=flags) as process:
            out, err = process.communicate(timeout=timeout)
        return Done(process.returncode, out, err)

    @contextlib.contextmanager
    def started(self, stage: str, *overrides: str, flags: tuple[str, ...] = ()):
        """The running command; whatever is left of it is ended with the block."""
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        process = subprocess.Popen(
            self.words(stage, *overrides, flags=flags),
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_hears_ctrl_c,
        )
        family: list[psutil.Process] = []
        try:
            yield process
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = psutil.Process(process.pid).children(recursive=True)
            if process.poll() is None:
                process.kill()
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()


def _hears_ctrl_c() -> None:
    """A shell that starts the tests in its background has them, and all below them, ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(happened: Callable[[], bool], process: subprocess.Popen | None = None, timeout: float = 200) -> None:
    """Poll; a process that ends before is a failure of the test."""
    end = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the command ended before: {process.communicate()}")
        time.sleep(0.05)


def descendants(pid: int, title: str = "") -> list[psutil.Process]:
    """Processes below one of ours whose title holds some text."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if title in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_driver(process: subprocess.Popen) -> None:
    """SIGKILL to the command itself; returns when everything that it had started is gone too."""
    # Ray's own agents notice the death of their head after a minute or more; they write nothing. All others must go;
    # a worker that was only being started waits for its head half a minute.
    family = descendants(process.pid)
    agents = [member for member in family if _is_agent(member)]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    end = time.monotonic() + 60
    while (left := [member for member in family if member not in agents and _runs(member)]) and time.monotonic() < end:
        time.sleep(0.1)
    alive = {member: _words(member) for member in left}
    for member in (*agents, *left):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    assert not alive, f"left behind by a killed run: {alive}"


def _is_agent(process: psutil.Process) -> bool:
    """Ray's agents are called after what they are once they have come up; until then after their file."""
    words = _words(process)
    return "Agent" in "".join(words[:1]) or any(word.endswith(AGENTS) for word in words)


def _words(process: psutil.Process) -> list[str]:
    """What a process was started with, or calls itself; nothing where it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def _runs(process: psutil.Process) -> bool:
    """An orphan that ended stays listed, as a zombie, until the machine's first process takes note of its end."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def content(root: Path, pattern: str) -> dict[str, str]:
    """SHA-256 of every file that a pattern finds, by path below the root."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.glob(pattern))
    }


def stamps(root: Path, pattern: str) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file that a pattern finds: equal only if nobody wrote it again."""
    found = {}
    for path in sorted(root.glob(pattern)):
        state = path.stat()
        found[str(path.relative_to(root))] = (state.st_ino, state.st_mtime_ns)
    return found
