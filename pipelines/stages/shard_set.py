"""The shard set: the shards of the last complete ingest, which is what is trained on and evaluated."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.config import Config, ConfigError
from pipelines.shards import ShardInfo, open_shards, update_manifest, verify_shards
from pipelines.stages.sums import SequenceSums
from pipelines.storage import Storage

SHARDS = "shards"
STATISTICS = "shards/statistics.json"
"""Means and standard deviations of the training split."""
CURRENT = "shards/current.json"
"""Names the set; written last: where it is, manifest and statistics are those of its shards."""


def publish(storage: Storage, shards: Iterable[ShardInfo], *, changed: bool) -> None:
    """Make shards the set, with their manifest and the statistics of the training split.

    Args:
        storage: of the root.
        shards: all of the set.
        changed: whether any was written since the set was last published.
    """
    shards = sorted(shards)
    entry = {"shards": [shard.path for shard in shards]}
    if not changed and storage.exists(CURRENT) and storage.read_json(CURRENT) == entry:
        return
    update_manifest(storage, SHARDS, known=shards)
    found = open_shards(storage, entry["shards"])
    sums = SequenceSums()
    for path in found.paths:
        if path.startswith(f"{SHARDS}/train/"):
            sums.merge(SequenceSums.from_dict(found.statistics[path]))
    storage.write_bytes_atomic(STATISTICS, sums.result().to_json().encode())
    storage.write_json(CURRENT, entry)


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
    return [path for path in _paths(storage) if path.startswith(f"{SHARDS}/{split}/")]


def _paths(storage: Storage) -> list[str]:
    current = storage.read_json(CURRENT)
    if not isinstance(current, dict) or "shards" not in current:
        raise ConfigError(f"root: {storage.uri(CURRENT)} is damaged; delete it and run `aef ingest`: shards are kept")
    paths: list[str] = current["shards"]
    return paths


def verify(config: Config) -> list[str]:
    """What is wrong with the set's shards; empty when nothing is, or there is no set."""
    storage = Storage(config.root)
    if not is_published(storage):
        return []
    own = set(_paths(storage))
    problems = [problem for problem in verify_shards(storage, SHARDS) if problem.partition(": ")[0] in own]
    print(f"{len(own)} shards checked")
    return [f"{problem}; delete it and run `aef ingest`" for problem in problems]
