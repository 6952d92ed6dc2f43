"""Commits of groups: what ingest writes beside the shards of a group, once they are whole, to say what they hold.

It holds only as long as each of these shards is there in its full size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from pipelines.shards import SHARD_SUFFIX, ShardInfo, harm_of
from pipelines.stages.groups import SiteGroup
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


def start_of_names(group: SiteGroup) -> str:
    """With what the paths of a group's commits and shards begin; what went into them follows."""
    return f"{SHARDS}/{group.sites[0].split}/{group.group_id}"


def sizes_by_group(storage: Storage) -> dict[str, dict[str, int]]:
    """Bytes of all shards by path, by the start of their names, from one listing."""
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for path, size in storage.sizes(SHARDS, SHARD_SUFFIX).items():
        sizes[path.rsplit("-", 2)[0]][path] = size
    return sizes


def is_whole(storage: Storage, commit: dict[str, Any], sizes: Mapping[str, int]) -> bool:
    """Whether each shard of a commit is there in its full size.

    Args:
        storage: of the root.
        commit: of a group.
        sizes: bytes of shards by path, listed earlier; only those that seem to be harmed are asked for again.
    """
    seeming = [shard for shard in shards_of(commit) if harm_of(shard, sizes)]
    return all(storage.exists(shard.path) and storage.size(shard.path) == shard.size for shard in seeming)


@dataclass(frozen=True)
class Commits:
    """What was committed of some groups.

    Attributes:
        whole: figures of the groups whose shards are as they were committed, by the start of their names.
        harmed: what is wrong with shards of the others, by path.
    """

    whole: dict[str, dict[str, Any]]
    harmed: dict[str, str]


def commits_of(storage: Storage, groups: Iterable[SiteGroup], published: Collection[str]) -> Commits:
    """The commits of groups, each with its shards' sizes compared in one listing.

    Of a group that was read with several settings, the one counts whose shards are ``published``; where none is, one
    that is whole, the last by name.
    """
    known = {start_of_names(group) for group in groups}
    sizes = storage.sizes(SHARDS)
    paths: dict[str, list[str]] = defaultdict(list)
    for path in sizes:
        if path.endswith(".json") and (start := path.rsplit("-", 1)[0]) in known:
            paths[start].append(path)
    commits = Commits({}, {})
    for start, of_group in paths.items():
        found = []
        for path in of_group:
            commit = read_commit(storage, path)
            shards = shards_of(commit)
            harmed = {shard.path: harm for shard in shards if (harm := harm_of(shard, sizes))}
            found.append((any(shard.path in published for shard in shards), not harmed, path, commit, harmed))
        _, whole, _, commit, harmed = max(found, key=itemgetter(0, 1, 2))
        commits.harmed.update(harmed)
        if whole:
            commits.whole[start] = commit
    return commits
