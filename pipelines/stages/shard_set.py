"""The shard set: the shards of the last complete ingest, which is what is trained on and evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pipelines.config import Config, ConfigError
from pipelines.shards import (
    MANIFEST_NAME,
    NOT_LISTED,
    OTHER_BYTES,
    DamagedManifestError,
    ShardInfo,
    open_shards,
    read_manifest,
    update_manifest,
    verify_shards,
)
from pipelines.sources.statistics import Statistics
from pipelines.stages.commits import SHARDS, committed_shards
from pipelines.stages.sums import SequenceSums
from pipelines.storage import Storage

MANIFEST = f"{SHARDS}/{MANIFEST_NAME}"
STATISTICS = "shards/statistics.json"
"""Means and standard deviations of the training split."""
CURRENT = "shards/current.json"
"""Names the set; written last: where it is, manifest and statistics are those of its shards."""
DAMAGED = "damaged"
REMEDIES = {
    # Ingest looks at sizes alone.
    OTHER_BYTES: "delete it and run `aef ingest`, which makes it again",
    NOT_LISTED: "run `aef ingest`, which lists it",
}


def publish(storage: Storage, shards: Iterable[ShardInfo], *, changed: bool) -> None:
    """Make shards the set, with their manifest and the statistics of the training split.

    Of a set that is published already, what is not as it should be is made again from the shards.

    Args:
        storage: of the root.
        shards: all of the set.
        changed: whether any was written since the set was last published.
    """
    shards = sorted(shards)
    entry = {"shards": [shard.path for shard in shards]}
    published = not changed and is_published(storage) and published_paths(storage) == entry["shards"]
    states = {MANIFEST: _state_of_manifest(storage, shards), STATISTICS: _state_of_statistics(storage)}
    for path, state in states.items():
        if state == DAMAGED or (published and state):
            print(f"[ingest] {storage.uri(path)} is {state}: it is made again from the shards")
    if published and not any(states.values()):
        return
    update_manifest(storage, SHARDS, known=shards)
    found = open_shards(storage, entry["shards"])
    sums = SequenceSums()
    for path in found.paths:
        if path.startswith(f"{SHARDS}/train/"):
            sums.merge(SequenceSums.from_dict(found.statistics[path]))
    storage.write_bytes_atomic(STATISTICS, sums.result().to_json().encode())
    storage.write_json(CURRENT, entry)


def _state_of_manifest(storage: Storage, shards: list[ShardInfo]) -> str:
    """Why a manifest is not one of these shards; empty where it is."""
    try:
        listed = read_manifest(storage, SHARDS)
    except DamagedManifestError:
        return DAMAGED
    return "" if set(shards) <= set(listed) else "missing or not that of these shards"


def read_statistics(storage: Storage) -> Statistics:
    """Means and standard deviations of the training split.

    Raises:
        ConfigError: naming the file, when there are none or what is there cannot be read as such.
    """
    try:
        found = Statistics.from_json(storage.read_bytes(STATISTICS).decode())
        if not found:
            raise ValueError("of no source")
        return found
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
        state = "missing" if isinstance(error, FileNotFoundError) else DAMAGED
        raise ConfigError(
            f"root: {storage.uri(STATISTICS)} is {state}; run `aef ingest`, which makes it again from the shards"
        ) from error


def _state_of_statistics(storage: Storage) -> str:
    """Why there are no statistics; empty where there are."""
    try:
        read_statistics(storage)
    except ConfigError as error:
        return "missing" if isinstance(error.__cause__, FileNotFoundError) else DAMAGED
    return ""


def withdraw(storage: Storage) -> None:
    """Until the next is published there is no set; the shards stay."""
    if storage.exists(CURRENT):
        storage.delete(CURRENT)


def is_published(storage: Storage) -> bool:
    """Whether an ingest was completed."""
    return storage.exists(CURRENT)


def current_shards(config: Config, split: str) -> list[str]:
    """Paths of the set's shards of a split.

    Raises:
        ConfigError: when there is no set.
    """
    storage = Storage(config.root)
    if not is_published(storage):
        raise ConfigError(f"root: no complete shard set under {config.root}; run `aef ingest` first")
    return [path for path in published_paths(storage) if path.startswith(f"{SHARDS}/{split}/")]


def published_paths(storage: Storage) -> list[str]:
    """Paths of the set's shards, of all splits; none where there is no set.

    Raises:
        ConfigError: what names them is damaged.
    """
    if not is_published(storage):
        return []
    damaged = f"root: {storage.uri(CURRENT)} is damaged; delete it and run `aef ingest`: shards are kept"
    try:
        paths = json.loads(storage.read_bytes(CURRENT))["shards"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(damaged) from error
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ConfigError(damaged)
    return paths


def verify(config: Config) -> list[str]:
    """What is wrong with the set's shards; empty when nothing is, or there is no set."""
    storage = Storage(config.root)
    if not is_published(storage):
        return []
    own = set(published_paths(storage))
    problems = []
    try:
        listed = read_manifest(storage, SHARDS)
    except DamagedManifestError as error:
        problems.append(str(error))
        listed = committed_shards(storage)
    for path, problem in verify_shards(storage, SHARDS, listed).items():
        if path in own:
            problems.append(f"{path}: {problem}; {REMEDIES.get(problem, 'run `aef ingest`, which makes it again')}")
    try:
        read_statistics(storage)
    except ConfigError as error:
        problems.append(str(error))
    print(f"{len(own)} shards checked")
    return problems
