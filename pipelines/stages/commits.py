"""Commits of groups: what ingest writes beside the shards of a group, once they are whole, to say what they hold."""

from __future__ import annotations

from typing import Any

from pipelines.shards import ShardInfo
from pipelines.storage import Storage

SHARDS = "shards"
_KEYS = frozenset({"sites", "shards", "empty", "water", "failures", "doubts"})


def read_commit(storage: Storage, path: str) -> dict[str, Any]:
    """The figures of a group.

    Raises:
        ValueError: naming the file, when it is no commit.
    """
    commit = storage.read_json(path)
    if not isinstance(commit, dict) or not commit.keys() >= _KEYS:
        raise ValueError(f"{storage.uri(path)} is damaged; delete it and run `aef ingest`, which reads its group again")
    return commit


def shards_of(commit: dict[str, Any]) -> list[ShardInfo]:
    """The shards that a commit names."""
    return [ShardInfo(**{**shard, "sources": tuple(shard["sources"])}) for shard in commit["shards"]]


def committed_shards(storage: Storage) -> list[ShardInfo]:
    """Those of every group on storage, of whichever plan and settings."""
    paths = storage.glob(f"{SHARDS}/*/*.json")
    return [shard for path in paths for shard in shards_of(read_commit(storage, path))]
