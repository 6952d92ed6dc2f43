"""Gaps that must not be committed: what could not be read for a reason that passes, or for want of access."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pipelines.coregister import ReadFailure
from pipelines.coregister.fetch import PERMANENT, FailureKind
from pipelines.sources import Source


class OutageError(OSError):
    """An archive did not answer, or gave no access; the work that needed it is left for the next run."""


def stop_on_outage(failures: Iterable[ReadFailure], measured: Collection[str], sources: Mapping[str, Source]) -> None:
    """Let work go on without the scenes that failed, unless that would make an outage permanent.

    Args:
        failures: of one piece of work.
        measured: sources of which something was read.
        sources: by name.

    Raises:
        OutageError: access to any scene was refused; or nothing was read of an input source, and not only because
            its files are missing or broken.
    """
    failures = list(failures)
    refused = [failure for failure in failures if failure.kind is FailureKind.REFUSED]
    if refused:
        raise OutageError(f"{_told(refused)}; not committed: mend the access and run again")
    for name, source in sources.items():
        its = [failure for failure in failures if failure.source == name]
        passing = [failure for failure in its if failure.kind not in PERMANENT]
        if source.is_input and name not in measured and passing:
            raise OutageError(f"{_told(its)}, and none was read; not committed: the next run tries again")


def _told(failures: list[ReadFailure]) -> str:
    first = failures[0]
    count = len({failure.scene_id for failure in failures if failure.source == first.source})
    scenes = "1 scene" if count == 1 else f"{count} scenes"
    return f"{first.source}: {scenes} not read, the first ({first.kind}) by {first.reason}"
