"""Embed: map every tile of the plan.

Tiles are read ahead by Ray tasks, each of which takes a stretch of neighbours, and embedded by an actor pool. A tile is
committed whole by the worker that made it; what is committed under the same identity is not read again.
"""

from __future__ import annotations

import json
import pickle
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import ray
import torch

import aef_model
import pipelines.coregister
import pipelines.products.quantise
import pipelines.sources
import pipelines.stages.embedder
from pipelines.config import Config, ConfigError
from pipelines.coregister import keep_blocks, read_sequence
from pipelines.grid import Period, Tile
from pipelines.products import (
    Cost,
    ModelDescription,
    Provenance,
    SceneRef,
    TileProduct,
    code_digest,
    commit_tile,
    committed_tiles,
    ensure_zone,
    is_committed,
    lacks_inputs,
    rebuild_index,
    uncommit,
    verify_tile,
    write_model,
)
from pipelines.scenes import Scene
from pipelines.shards import from_bytes, to_bytes
from pipelines.sources import Source
from pipelines.sources.statistics import Statistics
from pipelines.stages import checkpoint as checkpoints
from pipelines.stages import estimate
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.embedder import Embedder, observation_counts
from pipelines.stages.estimate import Estimate
from pipelines.stages.flop import tile_flop
from pipelines.stages.groups import along_curve, cell_of, reads_of, stretches
from pipelines.stages.limits import threads_by_source
from pipelines.stages.memory import MB
from pipelines.stages.outage import stop_on_outage
from pipelines.stages.planned import Plan, read_plan
from pipelines.stages.precision import warn_of_imitation
from pipelines.stages.session import (
    Progress,
    StageResult,
    failed_row,
    ray_session,
    release_memory,
    stop_if_root_failed,
)
from pipelines.stages.shard_set import STATISTICS, read_statistics
from pipelines.stages.signing import signers
from pipelines.stages.survey import Survey
from pipelines.storage import Storage

STAC_MODEL = "embeddings/stac/model.json"


@dataclass(frozen=True)
class TileTask:
    """One tile in one period."""

    tile: Tile
    period: Period

    @property
    def name(self) -> str:
        return f"{self.tile.tile_id}_{self.period.label}"


@dataclass(frozen=True)
class Recipe:
    """What every tile of a run has in common.

    Attributes:
        sources: input sources as the model was trained on them.
        model_id, model_digest, code: who made it.
    """

    sources: dict[str, Source]
    model_id: str
    model_digest: str
    code: str

    @classmethod
    def of(cls, config: Config, checkpoint: Checkpoint) -> Recipe:
        sources = {name: found for name, found in checkpoint.sources().items() if found.is_input}
        code = code_digest(
            aef_model, pipelines.coregister, pipelines.sources, pipelines.products.quantise, pipelines.stages.embedder
        )
        digest = checkpoint.digest()
        return cls(sources, f"stp-{config.train.model}-{digest[:12]}", digest, code)

    def provenance(self, config: Config, scenes: dict[str, list[Scene]]) -> Provenance:
        """What determines a tile made from these scenes."""
        inputs = (SceneRef.of(scene) for found in scenes.values() for scene in found)
        embed = config.embed
        parameters = {"patch_px": embed.patch_px, "margin_px": embed.margin_px, "precision": embed.precision}
        bands = {name: list(source.band_names) for name, source in self.sources.items()}
        return Provenance(
            self.model_id, self.model_digest, self.code, {**parameters, "bands": bands}, tuple(sorted(inputs))
        )


class TileReader:
    """Reads tiles with their margins inside Ray tasks: native pixels, compressed for the way to the worker."""

    def __init__(self, config: Config, plan: Plan, recipe: Recipe) -> None:
        self.config, self.plan, self.recipe = config, plan, recipe

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A stretch of tiles in, a row of each out, as soon as it is read."""
        for task in pickle.loads(row["tasks"]):
            yield self.outcome(task)

    def outcome(self, task: TileTask) -> dict[str, Any]:
        """``task``, ``window`` (empty when there is nothing to do), what it is ``made_from`` and JSON ``facts``."""
        try:
            window, provenance, facts = self.read(task)
        except Exception as error:  # the driver reports it and ends with a non-zero status
            window, provenance, facts = b"", None, failed_row(error)
        release_memory()
        return {
            "task": pickle.dumps(task),
            "window": window,
            "made_from": pickle.dumps(provenance),
            "facts": json.dumps(facts),
        }

    def read(self, task: TileTask) -> tuple[bytes, Provenance, dict[str, Any]]:
        """The measurements of a tile with its margin, what they are, and what was and was not read.

        Raises:
            OutageError: what is missing may be there the next time.
        """
        config, start = self.config, time.monotonic()
        window = task.tile.window.pad(config.embed.margin_px)
        planned = self.plan.scenes(window, task.period)
        scenes = {name: planned[name] for name in self.recipe.sources if name in planned}
        provenance = self.recipe.provenance(config, scenes)
        key = provenance.identity(task.tile, task.period)
        storage = Storage(config.root)
        there = is_committed(storage, task.tile, task.period, key)
        if there and not (config.embed.retry_unread and lacks_inputs(storage, task.tile, task.period)):
            return b"", provenance, {"skipped": True}
        keep_blocks(scratch_bytes=config.scratch_mb * MB)
        sequence, failures = read_sequence(
            scenes,
            window,
            task.period,
            self.recipe.sources,
            sign=signers(config),
            engine=config.embed.engine,
            threads=threads_by_source(config, config.embed.readers),
            sequence_id=task.name,
            split="map",
        )
        stop_on_outage(failures, sequence.rasters, self.recipe.sources)
        if there:
            uncommit(storage, task.tile, task.period)
        facts = {"read_seconds": time.monotonic() - start, "failures": [asdict(failure) for failure in failures]}
        return to_bytes(sequence), provenance, facts


class TileEmbedder:
    """One worker of the actor pool: holds the model, embeds and commits one tile at a time."""

    def __init__(self, config: Config, checkpoint_path: str, sources: dict[str, Source]) -> None:
        self.config, self.storage, self.sources = config, Storage(config.root), sources
        self.embedder = Embedder.of(config, checkpoints.load(self.storage, checkpoint_path))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """A tile read, in; a row of figures, out."""
        task: TileTask = pickle.loads(row["task"])
        outcome: dict[str, Any] = {"tile": task.name, **json.loads(row["facts"])}
        if row["window"]:
            try:
                outcome |= self.process(task, row["window"], pickle.loads(row["made_from"]), outcome)
            except Exception as error:  # the driver reports it and ends with a non-zero status
                outcome |= failed_row(error)
            release_memory()
        return {"outcome": json.dumps(outcome)}

    def process(self, task: TileTask, window: bytes, provenance: Provenance, facts: dict[str, Any]) -> dict[str, Any]:
        """Embed and commit."""
        start = time.monotonic()
        torch.set_num_threads(self.config.embed.threads)  # of this thread: Ray Data runs each call in one of its own
        sequence = from_bytes(window)
        vectors = self.embedder.embed(sequence, task.period)
        counts = observation_counts(sequence, self.sources, self.config.embed.margin_px)
        product = TileProduct.from_vectors(task.tile, task.period, vectors, counts)
        embed_seconds = time.monotonic() - start
        cost = Cost(
            seconds=facts["read_seconds"] + embed_seconds,
            peak_memory_bytes=psutil.Process().memory_info().rss,
            device=str(self.embedder.device) if self.embedder.device.type != "cpu" else platform.machine(),
            failed_inputs={failure["scene_id"]: failure["reason"] for failure in facts["failures"]},
        )
        receipt = commit_tile(self.storage, product, provenance, cost, zarr=self.config.embed.zarr)
        seconds = time.monotonic() - start
        return {"pixels": receipt["pixels"], "embed_seconds": embed_seconds, "commit_seconds": seconds - embed_seconds}


def run(config: Config) -> StageResult:
    """Map everything that is planned and not committed yet."""
    plan, storage = Plan.load(config), Storage(config.root)
    found = checkpoints.trained(config)
    check_checkpoint(config, found)
    recipe = Recipe.of(config, found)
    tiles = _neighbours_in_turn(plan.tiles())
    tasks = [TileTask(tile, period) for period in config.support_periods for tile in tiles]
    result = StageResult("embed", "tiles", planned=len(tasks))
    _prepare(config, storage, found, recipe, tasks)
    progress = Progress("embed", "tiles")
    reasons: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    valid_px = 0
    warn_of_imitation("embed.precision", config.embed.precision, config.embed.gpus > 0)
    with ray_session(config):
        rows = [{"tasks": pickle.dumps(stretch)} for stretch in stretches(tasks, config.embed.readers)]
        outcomes = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .flat_map(
                TileReader(config, plan, recipe),
                num_cpus=1,
                compute=ray.data.TaskPoolStrategy(size=config.embed.readers),
            )
            .map(
                TileEmbedder,  # type: ignore[arg-type]  # Ray takes classes too; its annotation leaves them out
                fn_constructor_args=(config, checkpoints.path_of(found.identity, found.step), recipe.sources),
                num_cpus=0 if config.embed.gpus else 1,
                num_gpus=config.embed.gpus or None,
                compute=ray.data.ActorPoolStrategy(size=min(config.embed.workers, len(tasks))),
            )
        )
        outcomes.context.target_max_block_size = 1  # a tile goes on when it is read, not with the last of its task
        for index, row in enumerate(outcomes.iter_rows()):
            outcome = json.loads(row["outcome"])
            stop_if_root_failed(outcome)
            if "error" in outcome:
                result.failed += 1
                reasons[outcome["error"]] += 1
            elif outcome.get("skipped"):
                result.skipped += 1
                reasons["already committed"] += 1
            else:
                result.written += 1
                valid_px += outcome["pixels"]["valid"]
                for name in ("read_seconds", "embed_seconds", "commit_seconds"):
                    seconds[name] += outcome[name]
                for failure in outcome["failures"]:
                    reasons[f"scene of {failure['source']} not read: {failure['kind']}"] += 1
            progress(index + 1, len(tasks))
    index = rebuild_index(storage)
    result.reasons = dict(reasons)
    result.details = {
        "km2_written": round(valid_px / 1e4, 2),
        "tiles_in_index": len(index),
        **{name: round(value, 1) for name, value in seconds.items()},
    }
    return result


def _neighbours_in_turn(tiles: Iterable[Tile]) -> list[Tile]:
    return sorted(tiles, key=lambda tile: (tile.window.epsg, along_curve(*cell_of(tile.window, tile.window.width_px))))


def check_checkpoint(config: Config, checkpoint: Checkpoint) -> None:
    """Refuse to map with a model that was trained on other inputs than those configured and ingested.

    Raises:
        ConfigError: naming the source and the remedy.
    """
    trained = {name: found.band_names for name, found in checkpoint.sources().items() if found.is_input}
    sources = {name: config.source(name) for name in config.sources}
    configured = {name: found.band_names for name, found in sources.items() if found.is_input}
    for name in sorted({*trained, *configured}):
        ours, its = configured.get(name), trained.get(name)
        if ours == its:
            continue
        if ours is None:
            problem = f"sources.{name}: not configured as an input, but one of the model under {config.root}"
        elif its is None:
            problem = f"sources.{name}: configured as an input, but none of the model under {config.root}"
        else:
            problem = f"sources.{name}.bands: {list(ours)}, but the model under {config.root} has {list(its)}"
        raise ConfigError(f"{problem}; run `aef train`, or restore the configuration that it was trained with")
    storage = Storage(config.root)
    if not storage.exists(STATISTICS):
        return  # mapped where nothing was ingested: the checkpoint's own are all there is
    ingested = read_statistics(storage)
    if ingested.digest() != Statistics.from_json(checkpoint.statistics).digest():
        raise ConfigError(
            f"{storage.uri(STATISTICS)}: not the statistics that the model under {config.root} was trained with; "
            "run `aef train`, or restore the shards and settings of that training"
        )


def _prepare(config: Config, storage: Storage, found: Checkpoint, recipe: Recipe, tasks: list[TileTask]) -> None:
    """The model's description and the empty stores, before any tile is written."""
    description = ModelDescription(
        model_id=recipe.model_id,
        digest=recipe.model_digest,
        parameters=sum(tensor.numel() for tensor in found.state.values()),
        sources={name: source.band_names for name, source in recipe.sources.items()},
        checkpoint_uri=storage.uri(checkpoints.path_of(found.identity, found.step)),
    )
    write_model(storage, description)
    if config.embed.zarr:
        catalogs = {config.catalogs[config.sources[name].catalog].url for name in recipe.sources}
        for epsg in sorted({task.tile.window.epsg for task in tasks}):
            ensure_zone(
                storage,
                epsg,
                config.plan.tile_px,
                config.support_periods,
                model_uri=storage.uri(STAC_MODEL),
                model_digest=recipe.model_digest,
                source_uris=sorted(catalogs),
            )


def receipts_of(config: Config) -> list[dict[str, Any]]:
    """Receipts of the committed tiles.

    Raises:
        ConfigError: when there are none.
    """
    storage = Storage(config.root)
    receipts = committed_tiles(storage)
    if not receipts:
        raise ConfigError(f"root: no committed tile under {storage.uri()}; check the root, or run `aef embed` first")
    return receipts


def verify(config: Config) -> list[str]:
    """What is wrong with the committed tiles; empty when nothing is.

    Raises:
        ConfigError: when there are none.
    """
    storage, receipts = Storage(config.root), receipts_of(config)
    problems = [problem for receipt in receipts for problem in verify_tile(storage, receipt, zarr=config.embed.zarr)]
    print(f"{len(receipts)} committed tiles checked")
    return problems


def describe(config: Config, survey: Survey) -> Estimate:
    """Print what embed would do with a plan."""
    tiles = len(survey.tiles) * len(config.periods)
    planned = {tile.tile_id for tile in survey.tiles}
    done = [receipt for receipt in _committed(config)[0] if receipt["tile_id"] in planned]
    windows = [tile.window.pad(config.embed.margin_px) for tile in _neighbours_in_turn(survey.tiles)]
    reads = reads_of(windows, config.embed.readers) * len(config.periods)
    needs = estimate.embed(config, survey, tile_flop, reads).left(len(done), tiles)
    print(
        f"[embed] {tiles} tiles of {config.plan.tile_px} px, {tiles * config.plan.tile_px**2 / 1e4:.0f} km2"
        f"{f' ({len(done)} committed)' if done else ''}; {needs.text(config)}"
    )
    return needs


def status_line(config: Config) -> str:
    """One line for ``aef status``."""
    planned = read_plan(Storage(config.root))["counts"]["tiles"]
    done, others = _committed(config)
    by = f" by {done[0]['model_id']}" if done else ""
    also = f"; {len(others)} more by {sorted({receipt['model_id'] for receipt in others})}" if others else ""
    return f"embed: {len(done)} of {planned} tiles committed{by}{also}"


def _committed(config: Config) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Receipts of the configured periods: by the model that is trained now, and by others."""
    labels = {period.label for period in config.support_periods}
    receipts = [row for row in committed_tiles(Storage(config.root)) if row["period"]["label"] in labels]
    try:
        digest = checkpoints.current_digest(config)
    except ConfigError:  # none yet
        digest = None
    ours = [receipt for receipt in receipts if receipt["model_digest"] == digest]
    return ours, [receipt for receipt in receipts if receipt["model_digest"] != digest]
