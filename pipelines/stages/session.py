"""What every stage shares: the Ray session, progress lines, peak memory and the summary file."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil
import pyarrow
import ray

from pipelines.config import Config, ConfigError
from pipelines.coregister import empty_node_folder
from pipelines.storage import Storage, StorageError

log = logging.getLogger("aef")

# Workers share cores: a spinning OpenMP barrier costs several times the step itself. One thread unless a stage asks
# for more, as torch.set_num_threads holds for the calling thread only and Ray Data calls from threads of its own.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # torch asks the kernel for huge pages: large activations fault once in 2 MiB (docs/decisions.md has the figures).
    "THP_MEM_ALLOC_ENABLE": "1",
}
JOB_MARK = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@dataclass
class StageResult:
    """What a stage did.

    Attributes:
        stage: name.
        planned, written, skipped, failed: counts of the stage's unit (scenes, shards, steps, tiles, scores);
            ``planned = written + skipped + failed`` when it ran to its end.
        unit: what is counted.
        reasons: for skipped and failed work, by reason.
        details: stage-specific figures.
    """

    stage: str
    unit: str
    planned: int = 0
    written: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """One line for a person."""
        parts = [f"{self.written} {self.unit} written"]
        if self.skipped:
            parts.append(f"{self.skipped} already done or skipped")
        if self.failed:
            parts.append(f"{self.failed} FAILED")
        memory = f"{self.peak_memory_bytes / 2**30:.1f} GiB peak"
        text = f"{self.stage}: {', '.join(parts)} of {self.planned}; {self.seconds:.0f} s, {memory}"
        for reason, count in sorted(self.reasons.items()):
            text += f"\n    {count} x {reason}"
        return text


def total_line(results: list[StageResult]) -> str:
    """One line for a person: how long all stages took, and the most memory that one of them held."""
    seconds = sum(result.seconds for result in results)
    peak = max((result.peak_memory_bytes for result in results), default=0)
    return f"total: {seconds:.0f} s, {peak / 2**30:.1f} GiB peak"


class Progress:
    """Prints what is done, the rate and the time left; at most one line every few seconds."""

    def __init__(self, stage: str, unit: str, every_s: float = 5.0) -> None:
        self.stage, self.unit, self.every_s = stage, unit, every_s
        self.start = self.last = time.monotonic()

    def __call__(self, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last < self.every_s and done < total:
            return
        self.last = now
        elapsed = now - self.start
        rate = done / elapsed if elapsed > 0 else 0.0
        left = (total - done) / rate if rate > 0 else float("inf")
        eta = f"{left:.0f} s left" if left != float("inf") else "estimating"
        print(
            f"[{self.stage}] {done:g}/{total:g} {self.unit}, {rate:.2f}/s, {eta}{'  ' + note if note else ''}",
            flush=True,
        )


class MemoryMonitor:
    """Samples the proportional set size of this process and all its descendants (Ray's processes included)."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self.interval_s, self.peak = interval_s, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="memory-monitor")

    def __enter__(self) -> MemoryMonitor:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()

    def sample(self) -> int:
        """Bytes held now; shared pages are counted once."""
        me = psutil.Process()
        total = 0
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
                total += process.memory_full_info().pss
        self.peak = max(self.peak, total)
        return total

    def _watch(self) -> None:
        pause = self.interval_s
        while not self._stop.wait(pause):
            start = time.thread_time()
            self.sample()
            # The kernel walks every page of every process for this: stay below 2 % of one core.
            pause = max(self.interval_s, 50 * (time.thread_time() - start))


def release_memory() -> None:
    """Give the system back what this process has freed.

    A worker lives on between pieces of work, and freed memory stays with it: glibc keeps what lies below its newest
    allocations, in an arena for every thread.
    """
    pyarrow.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError):  # another C library: it has no such call
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Connect to Ray, or start a private cluster on this machine for the time of the block."""
    if ray.is_initialized():
        yield
        return
    # A job submitted to a cluster finds it by RAY_ADDRESS.
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # What workers print stays in Ray's logs: every failure comes back as a row of figures.
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            if JOB_MARK not in os.environ:  # a submitted job has its environment from the submission
                common["runtime_env"] = {"env_vars": WORKER_ENVIRONMENT}
            ray.init(address=address, **common)
        else:
            cpus = config.ray.cpus or (os.cpu_count() or 1) + 2
            # Inherited, not a runtime environment: for that the workers that Ray starts beforehand would be of no use.
            with _environment(WORKER_ENVIRONMENT):
                # Without "local" Ray would join whatever cluster was last started on this machine by hand.
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    object_store_memory=config.ray.object_store_mb * 2**20,
                    include_dashboard=False,
                    **common,
                )
    except ConnectionError as error:
        raise ConfigError(
            f"ray.address: no Ray cluster answers at {address} ({error}); start one or leave the key out"
        ) from error
    quiet_ray_data()
    try:
        yield
    finally:
        ray.shutdown()
        if not address:  # of a cluster, the nodes keep their blocks for other jobs
            empty_node_folder()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables for the processes that are started within the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def quiet_ray_data() -> None:
    """Our own progress lines replace Ray Data's bars and plan dumps."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.use_ray_tqdm = False
    # Our monitor watches memory; Ray's walks every page of a worker once a second, a tenth of a reading task's time.
    context.memory_usage_poll_interval_s = None
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def write_summary(storage: Storage, result: StageResult) -> None:
    """Merge one stage's figures into ``reports/summary.json``; earlier stages' rows stay.

    A run that found everything done leaves the figures of the run that did it, and notes when it ``checked``.
    """
    path = "reports/summary.json"
    summary: dict[str, Any] = {"stages": {}}
    if storage.exists(path):
        summary = storage.read_json(path)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    last = summary["stages"].get(result.stage)
    if last and last["written"] and not (last["failed"] or result.written or result.failed):
        summary["stages"][result.stage] = {**last, "checked": now}
    else:
        summary["stages"][result.stage] = {**asdict(result), "finished": now}
    storage.write_json(path, summary)


def stable_json(value: Any) -> str:
    """Text of plain data that is equal for equal data."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def failed_row(error: Exception) -> dict[str, Any]:
    """A task's error as a row of figures. A root that cannot be written ends the stage: more work would fail alike."""
    return {"error": one_line(error), "ends_stage": isinstance(error, StorageError)}


def stop_if_root_failed(outcome: dict[str, Any]) -> None:
    """Raise on the driver what a task found wrong with the root.

    Raises:
        StorageError: as the task saw it.
    """
    if outcome.get("ends_stage"):
        raise StorageError(outcome["error"])


def one_line(error: BaseException) -> str:
    """An error as one line: its type where the message alone would not tell."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"
