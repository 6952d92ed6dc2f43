"""Train: fit the model with Ray Train on the shards, every rank fed by plain Ray tasks that decode ahead of it.

The order of samples is fixed by the seed alone: step by step and position by position in the global batch, whatever
the number of workers. Rank 0 writes checkpoints to the root itself; a worker that dies is replaced and the run goes
on from the newest of them, and so does a run that is started again.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import torch
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer, prepare_model

import aef_model
import pipelines.shards
import pipelines.sources
import pipelines.stages.batches
from aef_model import AlphaEarth
from pipelines.config import Config, ConfigError
from pipelines.products import any_committed, code_digest, identity
from pipelines.shards import open_shards
from pipelines.shards.reader import Row
from pipelines.sources.statistics import Statistics
from pipelines.stages import checkpoint as checkpoints
from pipelines.stages import estimate
from pipelines.stages.batches import to_batch
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.estimate import Estimate
from pipelines.stages.feed import Feed, pools_of
from pipelines.stages.flop import step_flop
from pipelines.stages.modelling import model_config
from pipelines.stages.precision import autocast, warn_of_imitation
from pipelines.stages.session import Progress, StageResult, one_line, ray_session
from pipelines.stages.shard_set import current_shards, read_statistics
from pipelines.stages.survey import Survey
from pipelines.storage import Storage

CURRENT = "checkpoints/current.json"
HISTORY = "reports/training.json"
REPORT_EVERY = 10
LOSS_TERMS = ("reconstruction", "uniformity", "consistency", "text")


def run_identity(config: Config, paths: list[str], statistics: Statistics) -> str:
    """Hash of data, settings and code: what a checkpoint may be continued with."""
    settings = config.train.model_dump(
        exclude={"workers", "threads", "data_workers", "max_failures", "checkpoint_every"}
    )
    return identity(
        inputs=[sorted(paths), statistics.digest()],
        parameters={"train": settings, "seed": config.seed, "model": model_config(config).to_dict()},
        model_digest="",
        code_digest=code_digest(aef_model, pipelines.stages.batches),
    )


def learning_rate(config: Config, step: int) -> float:
    """Linear warm-up, then linear decay to ``final_rate`` of the peak (SPEC section 4: linear to 0)."""
    train = config.train
    if step < train.warmup:
        return train.learning_rate * (step + 1) / train.warmup
    done = (step - train.warmup) / max(train.steps - train.warmup, 1)
    return train.learning_rate * (1 + (train.final_rate - 1) * done)


def train_loop(arguments: dict[str, Any]) -> None:
    """What each worker runs."""
    config: Config = arguments["config"]
    run_id: str = arguments["identity"]
    train = config.train
    storage = Storage(config.root)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(train.threads)
    torch.manual_seed(config.seed)
    device = ray.train.torch.get_device()
    statistics = read_statistics(storage)
    sources = {name: config.source(name) for name in config.sources}
    model = AlphaEarth(model_config(config))
    found = checkpoints.latest(storage, run_id)
    if found is not None:
        model.load_state_dict(found.state)
    wrapped = prepare_model(model)
    optimizer = torch.optim.AdamW(
        wrapped.parameters(), lr=train.learning_rate, betas=train.betas, weight_decay=train.weight_decay, fused=True
    )
    if found is not None and found.optimizer is not None:
        optimizer.load_state_dict(found.optimizer)
    step = found.step if found is not None else 0
    history = list(found.history) if found is not None else []
    feed = Feed(config, arguments["pools"], rank, world)
    # Noise and dropped frames differ between ranks and steps, and are the same in a resumed run.
    generator = torch.Generator(device=device)
    start, first, terms = time.monotonic(), step, TermLog()
    sound = torch.ones((), dtype=torch.bool, device=device)
    for raw in feed.batches(step):
        generator.manual_seed(hash_seed(config.seed, step, rank))
        torch.manual_seed(hash_seed(config.seed, step, rank))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        batch = to_batch(raw, sources, statistics, device)
        with autocast(train.precision, device):
            output = wrapped(batch, generator=generator, step=step)
        optimizer.zero_grad(set_to_none=True)
        output.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(wrapped.parameters(), train.clip)
        optimizer.step()
        sound = sound & torch.isfinite(norm)
        step += 1
        terms.add(output.losses)
        saves = step % train.checkpoint_every == 0 or step == train.steps
        # Looked at now and then, as looking waits for the device, but before anything is kept.
        if (saves or step % REPORT_EVERY == 0) and not sound:
            raise FloatingPointError(f"a gradient was no number by step {step}; lower train.learning_rate")
        if step % REPORT_EVERY == 0 or step == train.steps:
            row = terms.take()
            row |= {"step": step, "total": float(output.total.detach()), "gradient_norm": float(norm)}
            row |= {
                "seconds": time.monotonic() - start,
                "steps_per_second": (step - first) / (time.monotonic() - start),
            }
            if not math.isfinite(row["total"]):
                raise FloatingPointError(f"the loss became {row['total']} at step {step}; lower train.learning_rate")
            history.append(row)
            if rank == 0:
                arguments["board"].pin.remote(row)
            ray.train.report(row)
        if rank == 0 and saves:
            _save(storage, run_id, step, config, model_of(wrapped), optimizer, statistics, history)
        if step == train.steps:
            break


class TermLog:
    """The latest value of every loss term since the last row of the history.

    The student runs every ``consistency_every`` steps: rows made of their own step alone would never show its loss
    where that number and ``REPORT_EVERY`` do not meet.
    """

    def __init__(self) -> None:
        self._latest: dict[str, torch.Tensor] = {}

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Keep the terms of one step; nothing is copied from the device."""
        self._latest |= {name: value.detach() for name, value in losses.items()}

    def take(self) -> dict[str, float]:
        """The kept values, which are forgotten."""
        row = {name: float(value) for name, value in self._latest.items()}
        self._latest = {}
        return row


def loss_text(row: Mapping[str, float]) -> str:
    """Total and terms for a progress line."""
    terms = ", ".join(f"{name} {row[name]:.3f}" for name in LOSS_TERMS if name in row)
    return f"loss {row['total']:.3f}" + (f" ({terms})" if terms else "")


def model_of(wrapped: torch.nn.Module) -> AlphaEarth:
    """The model inside DistributedDataParallel, or itself."""
    inner = getattr(wrapped, "module", wrapped)
    assert isinstance(inner, AlphaEarth)
    return inner


def hash_seed(*parts: int) -> int:
    """A well-mixed 63-bit seed."""
    mixed = 0x9E3779B97F4A7C15
    for part in parts:
        mixed = ((mixed ^ (part + 0x9E3779B9)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        mixed ^= mixed >> 31
    return mixed >> 1


def _save(
    storage: Storage,
    run_id: str,
    step: int,
    config: Config,
    model: AlphaEarth,
    optimizer: torch.optim.Optimizer,
    statistics: Statistics,
    history: list[dict[str, float]],
) -> None:
    finished = step >= config.train.steps
    checkpoints.save(
        storage,
        checkpoints.path_of(run_id, step),
        Checkpoint(
            identity=run_id,
            step=step,
            steps=config.train.steps,
            model=model.cfg.to_dict(),
            bands={name: list(config.source(name).band_names) for name in config.sources},
            statistics=statistics.to_json(),
            state={name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
            optimizer=None if finished else optimizer.state_dict(),
            history=history,
        ),
    )


def run(config: Config) -> StageResult:
    """Train to the end, from wherever an earlier run got to.

    Raises:
        ConfigError: when there is nothing to train on, or tiles of another model are there.
    """
    storage = Storage(config.root)
    paths = current_shards(config, "train")
    if not paths:
        raise ConfigError("plan.test_area: every sequence is held out for testing; nothing is left to train on")
    statistics = read_statistics(storage)
    run_id = run_identity(config, paths, statistics)
    _refuse_second_model(storage, run_id)
    result = StageResult("train", "steps", planned=config.train.steps)
    steps = checkpoints.steps_on_storage(storage, run_id)
    before = steps[-1] if steps else 0
    result.skipped = before
    if before:
        print(f"[train] step {before} of {config.train.steps} is on storage; going on from there")
    if before < config.train.steps:
        pools = pools_of(open_shards(storage, paths).metadata(), config.train.same_period)
        if min(len(pool) for pool in pools) < 2:
            raise ConfigError("plan.sites: fewer than 2 training sequences (in a period); widen the area or raise it")
        warn_of_imitation("train.precision", config.train.precision, config.train.use_gpu)
        with ray_session(config):
            error = _fit(config, run_id, pools)
        steps = checkpoints.steps_on_storage(storage, run_id)
        if error is not None:
            reached = steps[-1] if steps else 0
            result.written = max(reached - before, 0)
            result.failed = config.train.steps - reached
            result.reasons = {one_line(error): result.failed}
            return result
    result.written = config.train.steps - before
    final = checkpoints.load(storage, checkpoints.path_of(run_id, config.train.steps))
    storage.write_json(
        CURRENT, {"path": checkpoints.path_of(run_id, config.train.steps), "digest": final.digest(), "identity": run_id}
    )
    storage.write_json(HISTORY, final.history)
    result.details = {
        "parameters": sum(tensor.numel() for tensor in final.state.values()),
        "first_loss": final.history[0]["total"],
        "last_loss": final.history[-1]["total"],
        "steps_per_second": final.history[-1]["steps_per_second"],
    }
    return result


def _refuse_second_model(storage: Storage, run_id: str) -> None:
    """Say before training, rather than after it, that its tiles could not be put beside those of another model."""
    if not storage.exists(CURRENT) or not any_committed(storage):
        return
    current = storage.read_json(CURRENT)["identity"]
    if current != run_id:
        raise ConfigError(
            f"root: {storage.uri('embeddings')} holds tiles of the model of run {current}; with these data, train "
            f"settings and code training would be run {run_id}, and embeddings of two models cannot be mixed: "
            "choose another root, or delete embeddings/"
        )


@ray.remote(num_cpus=0)
class Board:
    """Where rank 0 pins the latest figures for the driver to show."""

    def __init__(self) -> None:
        self.row: dict[str, float] = {}

    def pin(self, row: dict[str, float]) -> None:
        self.row = row

    def read(self) -> dict[str, float]:
        return self.row


@contextmanager
def shown_progress(board: ActorHandle, steps: int) -> Iterator[None]:
    """Print the board's figures for the time of the block."""
    progress, done = Progress("train", "steps"), threading.Event()
    shown: dict[str, float] = {}  # a term that the last row lacks is shown as it was last

    def watch() -> None:
        while not done.wait(2.0):
            latest: ray.ObjectRef[dict[str, float]] = board.read.remote()
            row = ray.get(latest)
            if row:
                shown.update(row)
                progress(row["step"], steps, loss_text(shown))

    thread = threading.Thread(target=watch, daemon=True, name="train-progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _fit(config: Config, run_id: str, pools: list[list[Row]]) -> BaseException | None:
    train = config.train
    board = Board.remote()  # type: ignore[attr-defined]  # ray.remote with arguments is annotated to return the class
    with tempfile.TemporaryDirectory(prefix="aef_train_") as scratch, shown_progress(board, train.steps):
        trainer = TorchTrainer(
            train_loop,
            train_loop_config={"config": config, "identity": run_id, "pools": pools, "board": board},
            scaling_config=ScalingConfig(
                num_workers=train.workers,
                use_gpu=train.use_gpu,
                resources_per_worker={"CPU": 1, "GPU": 1} if train.use_gpu else {"CPU": 1},
            ),
            # Ray's own bookkeeping only: the checkpoints are on the root, written by rank 0.
            run_config=RunConfig(
                name=run_id,
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=train.max_failures),
            ),
        )
        try:
            _interruptible(trainer.fit)
        except TrainingFailedError as error:
            return _cause(error)
    return None


def _interruptible(work: Callable[[], object]) -> None:
    """Do work in a thread of its own, and wait for it.

    In the main thread Ray Train would answer Ctrl-C itself, then and in all later stages: no word, the exit status 1
    or 0, and the ended controller with its workers' processes held for it.
    """
    ended: Future[object] = Future()

    def run() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:  # raised again by whoever waits
            ended.set_exception(error)

    threading.Thread(target=run, daemon=True, name="train-fit").start()
    ended.result()


def _cause(error: BaseException) -> BaseException:
    """The worker's own error below Ray's wrappers."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        return _cause(next(iter(failures.values())))
    inner = getattr(error, "cause", None) or error.__cause__
    return _cause(inner) if isinstance(inner, BaseException) else error


def describe(config: Config, survey: Survey) -> Estimate:
    """Print what train would do with a plan."""
    train = config.train
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in AlphaEarth(model_config(config)).parameters())
    _, step = _reached(config)
    needs = estimate.train(config, survey, step_flop).left(step, train.steps)
    done = f" ({step} on storage)" if step else ""
    print(
        f"[train] model {train.model}, {parameters / 1e6:.2f} M parameters, {train.steps} steps{done} of {train.batch} "
        f"crops of {train.crop_px} px on {train.workers} workers; {needs.text(config)}"
    )
    return needs


def status_line(config: Config) -> str:
    """One line for ``aef status``."""
    run_id, step = _reached(config)
    return f"train: step {step} of {config.train.steps} (run {run_id})" if run_id else "train: waits for shards"


def _reached(config: Config) -> tuple[str, int]:
    """The run that these settings and shards make, "" where there are no shards yet, and its last step on storage."""
    storage = Storage(config.root)
    try:
        paths = current_shards(config, "train")
    except ConfigError:
        return "", 0
    run_id = run_identity(config, paths, read_statistics(storage))
    steps = checkpoints.steps_on_storage(storage, run_id)
    return run_id, steps[-1] if steps else 0
