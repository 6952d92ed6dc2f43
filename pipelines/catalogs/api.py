"""A STAC API searched through pystac-client, in bounded windows of time, page by page."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any
from urllib.parse import quote

from pystac.errors import STACError
from pystac_client import Client
from pystac_client.errors import ClientTypeError
from pystac_client.exceptions import APIError
from shapely import get_num_coordinates
from shapely.geometry import box, mapping
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs.base import CatalogError, SceneSearch, query_text, time_windows
from pipelines.catalogs.items import collect
from pipelines.catalogs.providers import Provider
from pipelines.catalogs.sign import Signer
from pipelines.catalogs.stac_io import NotThere, PageTooLarge, PatientIO
from pipelines.grid import Period
from pipelines.patience import wait_s
from pipelines.sources.base import Kind, Source

logger = logging.getLogger(__name__)
_LARGEST_OUTLINE = 500  # vertices sent with a query; above that its box is sent, and the outline is tested here
_FEW = (Kind.STATIC, Kind.CLASSES, Kind.SERIES, Kind.TEXT)  # so few items that time need not be cut


class ApiCatalog:
    """One provider's STAC API."""

    def __init__(
        self,
        name: str,
        kind: str,
        url: str,
        provider: Provider,
        signer: Signer,
        *,
        page_items: int | None = None,
        concurrent: int | None = None,
        attempts: int = 6,
        timeout_s: float = 60.0,
        query: Mapping[str, Any] | None = None,
    ) -> None:
        """A catalog; nothing is asked of it yet.

        Args:
            name: in the configuration.
            kind: of provider.
            url: of the API's landing page.
            provider: its conventions.
            signer: of its assets.
            page_items: items a page, instead of the provider's.
            concurrent: requests at once, instead of the provider's.
            attempts: requests made before a search fails.
            timeout_s: of a request.
            query: further conditions of the query extension, such as ``{"eo:cloud_cover": {"lt": 80}}``.
        """
        self.name, self.kind, self.url, self.provider, self.signer = name, kind, url, provider, signer
        self.page_items = page_items or provider.page_items
        self.concurrent = concurrent or provider.concurrent
        self.attempts, self.timeout_s, self.query = attempts, timeout_s, dict(query or {})
        self._client: Client | None = None
        self._known: dict[str, bool] = {}  # collections, by whether the API has them

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    def search(
        self, source: Source, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> SceneSearch:
        """See :class:`pipelines.catalogs.base.Catalog`."""
        found = SceneSearch()
        windows = self._windows(source.kind, period)
        given: set[Any] = set()

        def items() -> Iterator[tuple[dict[str, Any], None]]:
            for window in windows:
                for item in self._items(collections, area, window):
                    given.add(str(item.get("collection")) if isinstance(item, dict) else None)
                    yield item, None

        collect(found, items(), source, self.name, area, period)
        for collection in collections:
            if collection not in given and not self._has(collection):
                found.refuse("the catalog has no such collection", collection)
        return found

    def _has(self, collection: str) -> bool:
        """Whether there is a collection; a search of one that is not there finds nothing and says nothing."""
        if collection not in self._known:
            io = self._open()._stac_io
            assert io is not None
            try:
                io.request(f"{self.url.rstrip('/')}/collections/{quote(collection, safe='')}")
            except NotThere:
                self._known[collection] = False
            else:
                self._known[collection] = True
        return self._known[collection]

    def _windows(self, kind: Kind, period: Period | None) -> Iterator[Period | None]:
        if period is None or kind in _FEW:
            yield period
        else:
            yield from time_windows(period, self.provider.windows_months)

    def _items(self, collections: Sequence[str], area: BaseGeometry, window: Period | None) -> Iterator[dict[str, Any]]:
        """The items of one window. A page that is too large is asked for again in halves, from the window's start."""
        items, alone = self.page_items, 0
        for attempt in count():
            try:
                # A whole window is held before any of it is given, so that a restart gives nothing twice.
                yield from [item for page in self._pages(collections, area, window, items) for item in page]
                return
            except PageTooLarge as error:
                alone += items == 1
                if alone >= self.attempts:
                    raise CatalogError(f"{error} (down to pages of one item)") from error
                items = max(1, items // 2)
                time.sleep(wait_s(attempt, {}))

    def _pages(
        self, collections: Sequence[str], area: BaseGeometry, window: Period | None, items: int
    ) -> Iterator[list[dict[str, Any]]]:
        client = self._open()
        outline = area if get_num_coordinates(area) <= _LARGEST_OUTLINE else box(*area.bounds)
        try:
            search = client.search(
                collections=list(collections),
                intersects=mapping(outline),
                datetime=window.datetime_range if window else None,
                limit=items,
                query=self.query or None,
            )
            # Dicts as they were served: pystac would migrate items of STAC 1.0 and lose what the producer wrote.
            seen: set[int] = set()
            given = matched = 0
            for page in search.pages_as_dicts():
                features: list[dict[str, Any]] = list(page["features"])
                said = hash(json.dumps(features, sort_keys=True))
                if features and said in seen:
                    raise ValueError("its pages repeat without end")
                seen.add(said)
                given += len(features)
                matched = max(matched, _matched(page))
                yield features
            if given < matched:
                logger.warning(
                    "catalog %s: of %d items that match %s, %d came; if the API ends long searches, make "
                    "plan.search_cell_deg smaller", self.name, matched, query_text(collections, area, window), given,
                )  # fmt: skip
        except (APIError, STACError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CatalogError(
                f"catalog {self.name}: search of {self.url} for {query_text(collections, area, window)} failed: "
                f"{error!r}; check catalogs.{self.name}.url"
            ) from error

    def _open(self) -> Client:
        if self._client is None:
            patient = PatientIO(
                self.name,
                retried=self.provider.retried,
                attempts=self.attempts,
                concurrent=self.concurrent,
                timeout_s=self.timeout_s,
            )
            try:
                self._client = Client.open(self.url, stac_io=patient)
            except (APIError, ClientTypeError, STACError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise CatalogError(
                    f"catalog {self.name}: {self.url} does not answer as a STAC API ({type(error).__name__}: {error}); "
                    f"check catalogs.{self.name}.url"
                ) from error
        return self._client


def _matched(page: Mapping[str, Any]) -> int:
    """How many items match in all, where a page says so."""
    said = page.get("numberMatched", (page.get("context") or {}).get("matched"))
    return int(said) if isinstance(said, int) or (isinstance(said, str) and said.isdigit()) else 0
