"""What each ``aef`` command does: order the stages, keep the books, set the exit status."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from pipelines.config import Config, ConfigError
from pipelines.products import any_committed
from pipelines.stages import checkpoint, embed, evaluate, ingest, plan, planned, shard_set, train
from pipelines.stages.earth import build_earth, check_served, describe_earth, live_catalog, served_catalog
from pipelines.stages.estimate import Estimate
from pipelines.stages.session import MemoryMonitor, StageResult, ray_session, total_line, write_summary
from pipelines.stages.settings import check_labels, check_settings
from pipelines.stages.survey import Survey
from pipelines.stages.truth import check_truth, require_truth
from pipelines.storage import Storage

ORDER = ("plan", "ingest", "train", "embed", "evaluate")
NEEDS_CATALOG = {"plan", "ingest", "embed"}
# What a stage alone builds on; each check raises a ConfigError that names the stage before. Asked before anything is
# rendered, served or started for it.
BUILDS_ON: dict[str, tuple[Callable[[Config], object], ...]] = {
    "plan": (),
    "ingest": (planned.check_planned,),
    "train": (partial(shard_set.current_shards, split="train"),),
    "embed": (planned.check_planned, checkpoint.current_digest),
    "evaluate": (
        planned.check_planned,
        partial(shard_set.current_shards, split="test"),
        checkpoint.current_digest,
        embed.receipts_of,
    ),
}
ASSUMPTIONS = (
    "Assumed (cost in the configuration): {cost.gpu_tflops:g} TFLOP/s a GPU at {cost.gpu_hour:g} an hour, "
    "{cost.cpu_gflops:g} GFLOP/s a core at {cost.cpu_hour:g} an hour, {cost.cpu_seconds_per_gb:g} core seconds a GB "
    "fetched, {cost.compression:g}:1 compression (measured, deflate of uint16), files in blocks of {cost.block_px} px. "
    "Images only: climate, lidar and texts are not in the bytes."
)


def run_stages(config: Config, options: argparse.Namespace) -> int:
    """Run one stage, or all of them; 0 only when everything planned was done or skipped for a stated reason."""
    names: tuple[str, ...] = ORDER if options.command == "run" else (options.command,)
    if options.command == "run" and config.evaluate is None:
        names = ORDER[:-1]
    check_settings(config, names)
    if options.dry_run:
        return dry_run(config, names)
    if "evaluate" in names and config.evaluate is not None:
        check_truth(config)  # now, not after the training
    if NEEDS_CATALOG & set(names):
        check_served(config)
    storage = Storage(config.root)
    storage.check_writable()
    for check in BUILDS_ON[names[0]]:
        check(config)
    results: list[StageResult] = []
    with contextlib.ExitStack() as stack:
        if config.sandbox is not None and config.sandbox.size is not None and NEEDS_CATALOG & set(names):
            results.append(_measured(storage, "sandbox", lambda: build_earth(config)))
        if "evaluate" in names and config.evaluate is not None:
            require_truth(config)
            check_labels(config)
        if NEEDS_CATALOG & set(names):
            stack.enter_context(served_catalog(config))
        for name in names:
            # One for all stages; a stage alone has its own, once it has found that there is something to do.
            if name != "plan" and len(names) > 1:
                stack.enter_context(ray_session(config))
            result = _measured(storage, name, partial(_stage, config, name, options))
            results.append(result)
            if result.failed and name in ("plan", "ingest", "train"):
                # Later stages would build on a hole; the next run does what is missing.
                break
    print("\n".join(["", "Summary", *(result.line() for result in results), total_line(results)]))
    if config.evaluate is not None and "evaluate" in names and storage.exists(evaluate.REPORT):
        print(f"Report: {storage.uri(evaluate.REPORT)}")
    failed = sum(result.failed for result in results)
    if failed:
        print(
            f"{failed} pieces of work failed; the reasons stand above. Run the same command again to do what is left."
        )
    return 1 if failed else 0


def _stage(config: Config, name: str, options: argparse.Namespace) -> StageResult:
    if name == "plan":
        return plan.run(config, refresh=getattr(options, "refresh", False))
    stages: dict[str, Callable[[Config], StageResult]] = {
        "ingest": ingest.run,
        "train": train.run,
        "embed": embed.run,
        "evaluate": evaluate.run,
    }
    return stages[name](config)


def _measured(storage: Storage, name: str, work: Callable[[], StageResult]) -> StageResult:
    print(f"== {name}", flush=True)
    start = time.monotonic()
    with MemoryMonitor() as monitor:
        result = work()
    result.seconds = round(time.monotonic() - start, 1)
    result.peak_memory_bytes = monitor.peak
    write_summary(storage, result)
    print(result.line(), flush=True)
    return result


def dry_run(config: Config, names: tuple[str, ...]) -> int:
    """Print what the stages would do, from the catalogs (plan) or from the plan on storage; nothing is written."""
    survey: Survey | None = None
    total, described = Estimate(), 0
    describes = {"ingest": ingest.describe, "train": train.describe, "embed": embed.describe}
    if "plan" in names:
        to_build, url = describe_earth(config), live_catalog(config)
        if to_build and url is None:
            return _describe_without_catalogs(config, names)
        if url is not None:
            print(f"[plan] searches the catalog that answers at {url}")
        with contextlib.nullcontext() if url is not None else served_catalog(config):
            survey = plan.dry_run(config)
    elif set(names) & set(describes) and Storage(config.root).exists(planned.PLAN):
        survey = planned.Plan.load(config).survey()
    for name in names:
        if name == "evaluate":
            evaluate.describe(config)
        elif name in describes and survey is None:
            print(f"[{name}] needs the plan; `aef plan` has not run under {config.root}")
        elif name in describes and survey is not None:
            total += describes[name](config, survey)
            described += 1
    if described > 1:
        print(f"[all] {total.text(config)}")
    if described:
        print(ASSUMPTIONS.format(cost=config.cost))
    return 0


def _describe_without_catalogs(config: Config, names: tuple[str, ...]) -> int:
    assert config.sandbox is not None
    plan.describe_without_catalogs(config)
    if "evaluate" in names:
        evaluate.describe(config)
    print(
        "[all] scenes, bytes, hours and cost need the synthetic Earth: run `aef sandbox build "
        f"--size {config.sandbox.size} --seed {config.sandbox.seed} --path {config.sandbox_path}` and this again"
    )
    return 0


def status(config: Config, options: argparse.Namespace) -> int:
    """What is planned, done and left under the root, from the objects on storage."""
    storage = Storage(config.root)
    print(f"root {storage.uri()}")
    if not storage.exists(planned.PLAN):
        print("plan: none yet; run `aef plan`")
        return 0
    counts = planned.read_plan(storage)["counts"]
    print(
        f"plan: {counts['scenes']}, sites {counts['sites']}, {counts['sequences']} sequences, {counts['tiles']} tiles"
    )
    for stage in (ingest, train, embed):
        print(stage.status_line(config))
    if storage.exists("reports/summary.json"):
        for row in storage.read_json("reports/summary.json")["stages"].values():
            reasons = "".join(f"; {count} x {reason}" for reason, count in row["reasons"].items())
            checked = f"; found done {row['checked']}" if "checked" in row else ""
            print(
                f"last {row['stage']}: {row['finished']}, {row['seconds']:.0f} s, written {row['written']}, "
                f"skipped {row['skipped']}, failed {row['failed']}{reasons}{checked}"
            )
    return 0


def verify(config: Config, options: argparse.Namespace) -> int:
    """Compare shards with their manifest and committed tiles with their receipts; 1 when one differs."""
    problems = shard_set.verify(config)
    if not shard_set.is_published(Storage(config.root)) or any_committed(Storage(config.root)):
        problems += embed.verify(config)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


def view(config: Config, options: argparse.Namespace) -> int:
    """Say where the results are."""
    storage = Storage(config.root)
    for label, path in (
        ("report", evaluate.REPORT),
        ("scores", evaluate.SCORES),
        ("tiles (COG)", "embeddings/v1"),
        ("index", "embeddings/aef_index.parquet"),
        ("Zarr", "embeddings/zarr"),
        ("STAC", "embeddings/stac"),
    ):
        print(f"{label:12} {storage.uri(path)}{'' if storage.exists(path) else '   (not there yet)'}")
    if options.open:
        if not storage.exists(evaluate.REPORT):
            raise ConfigError("no report yet; run `aef evaluate`")
        if not storage.is_local:
            raise ConfigError(f"--open: {storage.uri(evaluate.REPORT)} is not on this machine; copy it here first")
        import webbrowser

        webbrowser.open(Path(storage.uri(evaluate.REPORT)).resolve().as_uri())
    return 0


def sandbox(options: argparse.Namespace) -> int:
    """``aef sandbox build`` and ``aef sandbox serve``."""
    from pipelines.sandbox.build import build
    from pipelines.stages.session import Progress

    if options.action == "build":
        progress = Progress("sandbox", "files")
        result = build(options.path, options.size, options.seed, workers=options.workers, progress=progress)
        items = sum(result.items.values())
        done = f"{result.built} items built in {result.seconds:.0f} s" if result.built else "built already"
        print(
            f"[sandbox] {done}: {items} items, {result.bytes / 2**20:.0f} MiB at {result.path}; "
            f"`aef sandbox serve --catalog {result.catalog.parent}` serves them"
        )
        return 0
    from pipelines.sandbox.server import serve

    faults = dict(_fault(text) for text in options.fault)
    serve(options.catalog, host=options.host, port=options.port, faults=faults)
    return 0


def _fault(text: str) -> tuple[str, Any]:
    """A fault as a configuration has it: its value is YAML."""
    name, _, value = text.partition("=")
    try:
        settings = yaml.safe_load(value)
    except yaml.YAMLError:
        settings = None
    if settings is None:
        raise ConfigError(f"--fault {text}: write NAME=PROBABILITY, e.g. unavailable=0.05")
    return name, settings
