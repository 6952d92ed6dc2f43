"""Gaps that must not be committed: what could not be read for a reason that passes, or for want of access.

Work is committed once and found done ever after, so that a gap in it lasts. A file that is missing or broken leaves one
that no other run would fill; an archive that is down, throttles or has no access leaves one that a later run would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from pipelines.coregister import ReadFailure
from pipelines.coregister.fetch import PERMANENT, FailureKind
from pipelines.sources import Source
from pipelines.stages.groups import SiteGroup
from pipelines.stages.session import Progress

# A group, and the bytes by path of its shards that are there.
Work = tuple[SiteGroup, Mapping[str, int]]

# An archive that failed more reads than a few, and more than this share of them, is down: the next run may find it up.
FEW, MOST_AGAIN = 2, 0.5
# The archive's, after all attempts: it did not answer, answered with an error of its own, or asked to wait.
DOWN = frozenset({FailureKind.TRANSIENT, FailureKind.THROTTLED})


class OutageError(OSError):
    """An archive did not answer, or gave no access; the work that needed it is left for the next run.

    Attributes:
        passes: the archive may answer in a while, without anybody's doing.
    """

    def __init__(self, said: str, *, passes: bool = False) -> None:
        super().__init__(said)
        self.passes = passes


def stop_on_outage(failures: Iterable[ReadFailure], measured: Collection[str], sources: Mapping[str, Source]) -> None:
    """Let work go on without the scenes that failed, unless that would make an outage permanent.

    One scene of an input is enough: which scenes an outage hits is chance, and no reader of the result could tell its
    hole from a clouded day. Access that the archive itself denies is no outage where other scenes of the source were
    read: object stores answer 403 for what is not there. Targets may be missing: some places then teach less, and no
    map has a hole.

    Args:
        failures: of one piece of work.
        measured: sources of which something was read.
        sources: by name.

    Raises:
        OutageError: access to any scene was refused by who signs; a scene of an input failed because its archive was
            down; or nothing was read of an input, and not only because its files are missing or broken.
    """
    failures = list(failures)
    refused = [failure for failure in failures if failure.kind is FailureKind.REFUSED]
    if refused:
        raise OutageError(f"{_told(refused)}; not committed: mend the access and run again")
    for name, source in sources.items():
        its = [failure for failure in failures if failure.source == name]
        down = [failure for failure in its if failure.kind in DOWN]
        passing = [failure for failure in its if failure.kind not in PERMANENT]
        if not source.is_input or not (down or (passing and name not in measured)):
            continue
        none = "" if name in measured else ", and none was read"
        raise OutageError(f"{_told(down or its)}{none}; not committed: the next run tries again", passes=True)


def outcomes_of(
    work: Sequence[Work], read: Callable[[Sequence[Work]], Iterable[dict[str, Any]]], progress: Progress
) -> list[dict[str, Any]]:
    """Figures of all groups by name; those that an archive failed for a while are read once more after all others.

    Args:
        work: all of it, whether done before or not.
        read: work -> figures, in the order in which they are done.
        progress: told of sequences.
    """
    planned, done = sum(len(group.sites) for group, _ in work), 0
    found: dict[str, dict[str, Any]] = {}
    for outcome in read(work):
        found[outcome["group"]] = outcome
        done += outcome["sites"]
        progress(done, planned)
    again = [(group, sizes) for group, sizes in work if found[group.group_id].get("passes")]
    reads = sum(not outcome.get("skipped") for outcome in found.values())
    if 0 < len(again) <= max(FEW, MOST_AGAIN * reads):
        print(f"[ingest] {len(again)} of {reads} reads failed for reasons that pass; they are tried once more")
        found |= {outcome["group"]: outcome for outcome in read(again)}
    return [found[group_id] for group_id in sorted(found)]


def _told(failures: list[ReadFailure]) -> str:
    first = failures[0]
    count = len({failure.scene_id for failure in failures if failure.source == first.source})
    scenes = "1 scene" if count == 1 else f"{count} scenes"
    return f"{first.source}: {scenes} not read, the first ({first.kind}) by {first.reason}"
