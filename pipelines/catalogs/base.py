"""What every catalog offers, whoever runs it: a search that gives scenes, and a signer that opens their addresses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from shapely.geometry.base import BaseGeometry

from pipelines.catalogs.sign import Signer
from pipelines.grid import Period
from pipelines.scenes import Scene
from pipelines.sources.base import Source


class CatalogError(ConnectionError):
    """A catalog cannot be reached or refuses a search; one line that names the catalog, the query and the remedy."""


class UnusableItem(ValueError):
    """An item that cannot become a scene. The message is a reason by which items are counted: it names no item."""


@dataclass
class SceneSearch:
    """What a search found. Nothing is dropped in silence: every item is a scene or is refused.

    Attributes:
        scenes: in order of time and id.
        refused_items: reason -> ids of the items.
    """

    scenes: list[Scene] = field(default_factory=list)
    refused_items: dict[str, list[str]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.scenes)

    def __len__(self) -> int:
        return len(self.scenes)

    def refuse(self, reason: str, item_id: str) -> None:
        """Note an item that cannot be used."""
        self.refused_items.setdefault(reason, []).append(item_id)

    @property
    def refused(self) -> Counter[str]:
        """Number of items by reason."""
        return Counter({reason: len(items) for reason, items in self.refused_items.items()})


class Catalog(Protocol):
    """One configured provider of scenes; picklable.

    Attributes:
        name: in the configuration; scenes carry it.
        kind: which provider's conventions hold.
        url: of the STAC API or static catalog.
        signer: turns the unsigned hrefs of its scenes into ones that can be opened.
    """

    name: str
    kind: str
    url: str
    signer: Signer

    def search(
        self, source: Source, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> SceneSearch:
        """The scenes of a source over an area (WGS 84) and period (None: whenever).

        Raises:
            CatalogError: the catalog cannot be reached or refuses the query.
        """
        ...


def query_text(collections: Sequence[str], area: BaseGeometry, window: Period | None) -> str:
    """A search in words, for messages."""
    when = window.datetime_range if window else "any time"
    return f"collections {list(collections)}, {when}, bounds {tuple(round(x, 4) for x in area.bounds)}"


def time_windows(period: Period, months: int = 1) -> Iterator[Period]:
    """A period cut at the starts of calendar months, so that no query has an unbounded answer."""
    start_ms = period.start_ms
    while start_ms < period.end_ms:
        start = datetime.fromtimestamp(start_ms / 1000, UTC)
        count = start.year * 12 + start.month - 1 + months
        following = datetime(count // 12, count % 12 + 1, 1, tzinfo=UTC)
        end_ms = min(round(following.timestamp() * 1000), period.end_ms)
        yield Period(start_ms, end_ms)
        start_ms = end_ms
