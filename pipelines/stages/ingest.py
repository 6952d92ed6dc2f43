"""Ingest: read every site's scenes, co-register them and write shards, one group of neighbouring sites after another.

A group reads each scene once for all of its sites and cuts in memory. Shards are named by what went into them, so a
run that is started again finds what is done and does the rest; a group that fails is reported and fails alone. A Ray
task takes a stretch of neighbouring groups, which share the blocks of files on their seams.
"""

from __future__ import annotations

import json
import pickle
import resource
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Ordered
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, islice
from types import MappingProxyType
from typing import Any

import ray

import pipelines.coregister
import pipelines.shards
import pipelines.sources
import pipelines.stages.texts
import pipelines.stages.water
from pipelines.config import Config, ConfigError
from pipelines.coregister import ReadDoubt, ReadFailure, keep_blocks, read_block
from pipelines.grid import Site
from pipelines.products.identity import code_digest, identity
from pipelines.scenes import Scene
from pipelines.sequence import Sequence
from pipelines.shards import ShardInfo, write_shard
from pipelines.sources import Source
from pipelines.stages import estimate, shard_set
from pipelines.stages.commits import commits_of, is_whole, read_commit, shards_of, sizes_by_group, start_of_names
from pipelines.stages.estimate import Estimate
from pipelines.stages.groups import SiteGroup, groups_of, largest_window, reads_of_groups, stretches
from pipelines.stages.limits import threads_by_source
from pipelines.stages.memory import (
    MB,
    block_budget,
    decoded_bytes,
    kept_bytes,
    large_site,
    memory_lines,
    parts_of,
    sparse,
    window_of,
)
from pipelines.stages.outage import OutageError, Work, outcomes_of, stop_on_outage
from pipelines.stages.planned import Plan, planned_sites, read_plan
from pipelines.stages.session import (
    Progress,
    StageResult,
    failed_row,
    log,
    ray_session,
    release_memory,
    stop_if_root_failed,
)
from pipelines.stages.signing import signers
from pipelines.stages.sites import count_sequences
from pipelines.stages.sums import SequenceSums
from pipelines.stages.survey import Survey
from pipelines.stages.texts import TextVectors, encode_planned_texts
from pipelines.stages.water import is_open_water
from pipelines.storage import Storage

FAILURES = "reports/ingest_failures.json"
"""Every scene that could not be read, with its reason."""
DOUBTS = "reports/ingest_doubts.json"
"""Every scene that was used although its pixels look wrong, with the reason and in how many groups."""
NAMED = 3  # scenes, or shards, that ``aef status`` names of each kind
NOTHING_LISTED: Mapping[str, int] = MappingProxyType({})
RETRY = "once they are there, `aef ingest --set ingest.retry_unread=true` reads again what was committed without them"


@dataclass
class Books:
    """What the reading of a group left out, by site, and what was amiss with its scenes, each once and in order."""

    empty: list[str] = field(default_factory=list)
    water: list[str] = field(default_factory=list)
    failures: dict[ReadFailure, None] = field(default_factory=dict)
    doubts: dict[ReadDoubt, None] = field(default_factory=dict)


def group_identity(config: Config, group: SiteGroup, scenes: dict[str, list[Scene]], code: str) -> str:
    """Hash of what a group's shards are made from: sites, scenes as the catalog describes them, settings, code."""
    inputs = {
        "sites": [(site.site_id, site.window.shape) for site in group.sites],
        "period": [group.period.start_ms, group.period.end_ms],
        "scenes": {
            name: [(scene.scene_id, scene.description()) for scene in found] for name, found in sorted(scenes.items())
        },
        "bands": {name: config.source(name).band_names for name in sorted(config.sources)},
        "clouds": {name: part.cloud_percent for name, part in sorted(config.sources.items()) if part.cloud_percent},
        "not_encoded": sorted(name for name, part in config.sources.items() if part.encoded is False),
    }
    parameters = {
        "text_encoder": config.ingest.text_encoder,
        "codec": config.ingest.codec,
        "sequences_per_shard": config.ingest.sequences_per_shard,
        "drop_open_water": config.ingest.drop_open_water,
    }
    return identity(inputs=inputs, parameters=parameters, model_digest="", code_digest=code)


def _peak() -> dict[str, int]:
    """The most memory that this worker ever held."""
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


class GroupReader:
    """Reads and writes stretches of groups inside Ray tasks; made on the driver, it carries configuration only."""

    def __init__(self, config: Config, plan: Plan, vectors: TextVectors | None) -> None:
        self.config, self.plan, self.vectors = config, plan, vectors
        self.code = code_digest(
            pipelines.coregister, pipelines.sources, pipelines.shards, pipelines.stages.texts, pipelines.stages.water
        )

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A stretch of groups in, a row of figures of each out, as soon as it is done."""
        for group, sizes in pickle.loads(row["groups"]):
            yield {"outcome": json.dumps(self.outcome(group, sizes))}

    def outcome(self, group: SiteGroup, sizes: Mapping[str, int] = NOTHING_LISTED) -> dict[str, Any]:
        """Figures of a group, read and written; an error becomes figures too, so that other groups go on."""
        start, cpu = time.monotonic(), time.process_time()
        try:
            outcome = self.process(group, sizes)
        except Exception as error:  # the driver reports it and ends with a non-zero status
            passes = isinstance(error, OutageError) and error.passes
            outcome = {"sites": len(group.sites), "passes": passes, **failed_row(error)}
        seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu
        figures = {"group": group.group_id, "seconds": seconds, "cpu_seconds": cpu_seconds, **_peak()}
        return {**figures, **outcome}

    def process(self, group: SiteGroup, sizes: Mapping[str, int] = NOTHING_LISTED) -> dict[str, Any]:
        """Read, cut, write.

        Args:
            group: of sites.
            sizes: bytes by path of the group's shards that were there when the run began.

        Returns:
            ``shards`` on storage, sites that are ``empty`` (without any input) or open ``water``, ``failures`` of
            scenes, ``doubts`` about scenes, whether all was there already (``skipped``).

        Raises:
            OutageError: what is missing may be there the next time; nothing was written.
        """
        config, storage = self.config, Storage(self.config.root)
        scenes = {
            name: found
            for name, found in self.plan.scenes(group.window, group.period).items()
            if name in config.sources
        }
        digest = group_identity(config, group, scenes, self.code)
        prefix = f"{start_of_names(group)}-{digest}"
        committed = storage.exists(f"{prefix}.json")
        if committed:
            outcome = read_commit(storage, f"{prefix}.json")
            retried = config.ingest.retry_unread and outcome["failures"]
            if not retried and is_whole(storage, outcome, sizes):
                return {**outcome, "skipped": True}
        sources = {name: config.source(name) for name in config.sources}
        books = Books()
        sequences = self._sequences(group, scenes, sources, books)
        shards = []
        for index, part in enumerate(parts(sequences, config.ingest.sequences_per_shard)):
            if committed and index == 0:  # it has been read: only now are its shards replaced
                storage.delete(f"{prefix}.json")
            shards.append(self._write(storage, f"{prefix}-{index:03d}.shard.parquet", part, sources))
        outcome = {
            "sites": len(group.sites),
            "shards": [asdict(shard) for shard in shards],
            "empty": sorted(books.empty),
            "water": sorted(books.water),
            "failures": [asdict(failure) for failure in books.failures],
            "doubts": [asdict(doubt) for doubt in books.doubts],
            "skipped": False,
        }
        storage.write_json(f"{prefix}.json", outcome)
        return outcome

    def _sequences(
        self,
        group: SiteGroup,
        scenes: dict[str, list[Scene]],
        sources: dict[str, Source],
        books: Books,
    ) -> Iterator[Sequence]:
        """The group's sequences, part by part within the memory bound; books what was left out and is amiss."""
        config = self.config
        budget = block_budget(config.ingest.memory_mb)
        keep_blocks(kept_bytes(config.ingest.memory_mb), config.scratch_mb * MB if group.shares_blocks else 0)

        def fits(part: Ordered[Site]) -> bool:
            return not sparse(part) and decoded_bytes(scenes, window_of(part), sources) <= budget

        for part in parts_of(group.sites, fits):
            block = read_block(
                scenes,
                window_of(part),
                group.period,
                sources,
                sign=signers(config),
                engine=config.ingest.engine,
                threads=threads_by_source(config, config.ingest.workers),
            )
            release_memory()  # what the block was stacked from
            stop_on_outage(block.failures, block.rasters, sources)
            for site in part:
                sequence_id = f"{site.site_id}_{group.period.label}"
                sequence = block.sequence(site.window, sequence_id=sequence_id, split=site.split)
                if not any(source.is_input and name in sequence.rasters for name, source in sources.items()):
                    books.empty.append(site.site_id)
                    continue
                if config.ingest.drop_open_water and is_open_water(sequence, sources):
                    books.water.append(site.site_id)
                    continue
                if sequence.texts is not None:
                    texts = self.vectors.attach(sequence.texts) if self.vectors is not None else None
                    sequence = replace(sequence, texts=texts)
                yield sequence
            stop_on_outage(block.failures, block.rasters, sources)  # climate is read site by site
            books.failures |= dict.fromkeys(block.failures)
            books.doubts |= dict.fromkeys(block.doubts)
            del block  # or it would be held while the next is read
            release_memory()

    def _write(self, storage: Storage, path: str, part: Iterable[Sequence], sources: dict[str, Source]) -> ShardInfo:
        sums = SequenceSums()

        def counted() -> Iterator[Sequence]:
            for sequence in part:
                sums.add(sequence, sources)
                yield sequence

        codec = self.config.ingest.codec
        info = write_shard(storage, path, counted(), sums.to_dict, codec=codec, code_digest=self.code)
        release_memory()
        return info


def parts(items: Iterable[Sequence], size: int) -> Iterator[Iterator[Sequence]]:
    """Consecutive stretches of at most ``size`` items, none of them held: each must be used up before the next."""
    stream = iter(items)
    for first in stream:
        yield chain([first], islice(stream, size - 1))


def run(config: Config) -> StageResult:
    """Ingest everything that is planned and not there yet.

    Raises:
        ConfigError: when no sequence has any input, or the set before it cannot be told.
    """
    plan = Plan.load(config)
    storage = Storage(config.root)
    shard_set.published_paths(storage)  # if that is damaged it is said now, not after the reading
    sites = plan.sites()
    if too_large := large_site(config, sites, plan.looks()):
        log.warning("%s", too_large)
    groups = groups_of(sites, config.support_periods, config.ingest.block_px)
    result = StageResult("ingest", "sequences", planned=sum(len(group.sites) for group in groups))
    if config.ingest.retry_unread:
        shard_set.withdraw(storage)  # nobody may train on shards while some are replaced
    progress = Progress("ingest", "sequences")
    with ray_session(config):
        vectors = encode_planned_texts(config, plan)
        listed = sizes_by_group(storage)
        work = [(group, listed.get(start_of_names(group), {})) for group in groups]
        outcomes = outcomes_of(work, partial(_read, GroupReader(config, plan, vectors)), progress)
        if vectors is not None and (new := vectors.wait()):
            print(f"[ingest] {new} texts encoded by {config.ingest.text_encoder}")
    return _book(config, storage, result, outcomes)


def _read(reader: GroupReader, work: Ordered[Work]) -> Iterator[dict[str, Any]]:
    """Figures of groups, read in Ray tasks.

    Raises:
        StorageError: the root cannot be written.
    """
    workers = reader.config.ingest.workers
    rows = [{"groups": pickle.dumps(stretch)} for stretch in stretches(work, workers)]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(
        reader, num_cpus=1, compute=ray.data.TaskPoolStrategy(size=workers)
    )
    dataset.context.target_max_block_size = 1  # every row comes when it is made, not with the last of its task
    for row in dataset.iter_rows():
        outcome: dict[str, Any] = json.loads(row["outcome"])
        stop_if_root_failed(outcome)
        yield outcome


def _book(config: Config, storage: Storage, result: StageResult, outcomes: list[dict[str, Any]]) -> StageResult:
    """Counts, failures, the manifest and the statistics of the training split."""
    reasons: Counter[str] = Counter()
    failures, doubts = [], []
    current: list[ShardInfo] = []
    for outcome in outcomes:
        if "error" in outcome:
            result.failed += outcome["sites"]
            reasons[outcome["error"]] += outcome["sites"]
            continue
        shards = shards_of(outcome)
        sequences = sum(shard.sequences for shard in shards)
        current += shards
        failures += outcome["failures"]
        doubts += outcome["doubts"]
        result.skipped += len(outcome["empty"]) + len(outcome["water"]) + (sequences if outcome["skipped"] else 0)
        result.written += 0 if outcome["skipped"] else sequences
        if outcome["empty"]:
            reasons["no input source measured anything here in the period"] += len(outcome["empty"])
        if outcome["water"]:
            reasons["open water only (ingest.drop_open_water)"] += len(outcome["water"])
        if outcome["skipped"]:
            reasons["already on storage"] += sequences
    for failure in failures:
        instead = ", others of its acquisition read in its place" if failure["fallback"] else ""
        reasons[f"scene of {failure['source']} not read: {failure['kind']}{instead} (see {FAILURES})"] += 1
    storage.write_json(FAILURES, sorted(failures, key=lambda failure: (failure["source"], failure["scene_id"])))
    doubtful = _warn_of_doubts(storage, doubts)
    result.reasons = dict(reasons)
    if result.failed:
        return result
    if not current:
        raise _nothing_to_ingest(storage, failures)
    shard_set.publish(storage, current, changed=result.written > 0)
    result.details = {
        "shards": len(current),
        "bytes": sum(shard.size for shard in current),
        "frames": sum(shard.frames for shard in current),
        "scenes_not_read": len(failures),
        "scenes_replaced": sum(bool(failure["fallback"]) for failure in failures),
        "scenes_doubtful": doubtful,
        "cpu_seconds": sum(outcome["cpu_seconds"] for outcome in outcomes),
        "worker_peak_bytes": max((outcome["peak_bytes"] for outcome in outcomes if not outcome["skipped"]), default=0),
    }
    return result


def _nothing_to_ingest(storage: Storage, failures: list[dict[str, Any]]) -> ConfigError:
    if not failures:
        return ConfigError("area: no sequence has any input in any period; check area, periods and sources")
    first = failures[0]
    return ConfigError(
        f"root: no sequence has any input: {len(failures)} scenes could not be read, the first of {first['source']} "
        f"({first['kind']}) by {first['reason']}; all are named in {storage.uri(FAILURES)}: {RETRY}"
    )


def _warn_of_doubts(storage: Storage, doubts: Iterable[dict[str, str]]) -> int:
    """Writes the scenes that look wrong, each once, and warns of them by name; returns how many they are."""
    scenes: dict[tuple[str, str], dict[str, Any]] = {}
    for doubt in sorted(doubts, key=lambda doubt: (doubt["source"], doubt["scene_id"], doubt["reason"])):
        scenes.setdefault((doubt["source"], doubt["scene_id"]), {**doubt, "groups": 0})["groups"] += 1
    storage.write_json(DOUBTS, list(scenes.values()))
    if scenes:
        first = next(iter(scenes.values()))
        more = f" [and {len(scenes) - 1} more scenes]" if len(scenes) > 1 else ""
        log.warning("%s scene %s: %s%s; see %s", first["source"], first["scene_id"], first["reason"], more, DOUBTS)
    return len(scenes)


def describe(config: Config, survey: Survey) -> Estimate:
    """Print what ingest would do with a plan."""
    groups = groups_of(survey.sites, config.support_periods, config.ingest.block_px)
    largest = largest_window(config, survey.sites)
    planned = count_sequences(survey.sites, config.support_periods)
    storage = Storage(config.root)
    commits = commits_of(storage, groups, shard_set.published_paths(storage))
    done = sum(commit["sites"] for commit in commits.whole.values())
    reads = reads_of_groups(groups, config.ingest.workers)
    needs = estimate.ingest(config, survey, reads).left(done, planned)
    for line in memory_lines(config, survey.sites, survey.looks, largest):
        print(f"[ingest] {line}")
    print(
        f"[ingest] {planned} sequences{f' ({done} done)' if done else ''} in {len(groups)} reads of at most "
        f"{largest.width_px} x {largest.height_px} px, {config.ingest.workers} at once, engine "
        f"{config.ingest.engine}; {needs.text(config)}"
    )
    return needs


def status_line(config: Config) -> str:
    """Done, left, and unread by reason, for ``aef status``: from what is on storage, whether or not a run goes on."""
    storage = Storage(config.root)
    planned_groups = groups_of(planned_sites(storage), config.support_periods, config.ingest.block_px)
    commits = commits_of(storage, planned_groups, shard_set.published_paths(storage))
    groups = commits.whole
    done = sum(row["sites"] for row in groups.values())
    planned = read_plan(storage)["counts"]["sequences"]
    empty, water = (sum(len(row[name]) for row in groups.values()) for name in ("empty", "water"))
    lines = [
        f"ingest: {done} of {planned} planned sequences done, {max(planned - done, 0)} left "
        f"({empty} without input, {water} open water)"
    ]
    if commits.harmed:
        named = [f"{path} {harm}" for path, harm in sorted(commits.harmed.items())[:NAMED]]
        lines.append(
            f"ingest: {len(commits.harmed)} shards are not as they were committed: {', '.join(named)}"
            f"{_more(len(commits.harmed))}; `aef ingest` makes them again"
        )
    unread: dict[tuple[str, str], set[str]] = defaultdict(set)
    replaced: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in groups.values():
        for failure in row["failures"]:
            unread[failure["source"], failure["kind"]].add(failure["scene_id"])
            if failure.get("fallback"):  # rows of an earlier version have no such field
                replaced[failure["source"], failure["kind"]].add(failure["scene_id"])
    for (source, kind), scenes in sorted(unread.items()):
        first = ", ".join(sorted(scenes)[:NAMED])
        others = len(replaced[source, kind])
        instead = f"; {others} of them replaced by others of their acquisition" if others else ""
        lines.append(f"ingest: {len(scenes)} scenes of {source} not read, {kind}: {first}{_more(len(scenes))}{instead}")
    if unread:
        lines.append(f"ingest: {RETRY}")
    return "\n".join(lines)


def _more(count: int) -> str:
    return f" and {count - NAMED} more" if count > NAMED else ""
