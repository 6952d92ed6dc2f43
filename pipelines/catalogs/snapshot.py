"""A catalog as stac-geoparquet files: a continent is searched in this process, without paging through an API.

One row an item: the item's top-level fields and its properties as columns, geometry as WKB, times as timestamps; what
other writers make of them is understood too (:mod:`pipelines.catalogs.snapshot_rows`). Files are read in batches of
rows, and only those that may touch the area and period by the columns ``bbox`` and ``datetime``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial, reduce
from operator import and_
from typing import Any, TypeVar

import aiohttp
import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import requests
from shapely.geometry.base import BaseGeometry

from pipelines.catalogs.base import CatalogError, SceneSearch, UnusableItem, query_text
from pipelines.catalogs.items import collect
from pipelines.catalogs.sign import Signer
from pipelines.catalogs.snapshot_rows import ENCODINGS, item_of
from pipelines.grid import Period
from pipelines.patience import RefusedRequest, patiently
from pipelines.sources.base import Kind, Source

T = TypeVar("T")
BATCH_ROWS = 1024
TIMEOUT_S = 60
_TIMELESS = (Kind.STATIC, Kind.CLASSES, Kind.TEXT)


class SnapshotCatalog:
    """Items of stac-geoparquet files."""

    kind = "geoparquet"

    def __init__(self, name: str, url: str, signer: Signer, storage_options: Mapping[str, Any] | None = None) -> None:
        """A catalog; nothing is read yet.

        Args:
            name: in the configuration.
            url: of a file, or a folder of files (partitions, at any depth); ``{collection}`` stands for the
                collection that is searched.
            signer: of the assets.
            storage_options: for whatever opens the url (fsspec); credentials belong into the environment.
        """
        self.name, self.url, self.signer = name, url, signer
        self.storage_options = dict(storage_options or {})

    def search(
        self, source: Source, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> SceneSearch:
        """See :class:`pipelines.catalogs.base.Catalog`."""
        found = SceneSearch()
        period = None if source.kind is Kind.STATIC else period
        bounds = None if source.kind in _TIMELESS else period
        items = (
            (item, None) for asked in self._asked(collections) for item in self._items(found, *asked, area, bounds)
        )
        collect(found, items, source, self.name, area, period)
        return found

    def _asked(self, collections: Sequence[str]) -> list[tuple[str, list[str]]]:
        """Addresses, and the collections that are looked for in each."""
        by_url: dict[str, list[str]] = {}
        for collection in collections:
            by_url.setdefault(self.url.replace("{collection}", collection), []).append(collection)
        return list(by_url.items())

    def _items(
        self, found: SceneSearch, url: str, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> Iterator[dict[str, Any]]:
        """The items of rows; those that cannot be understood are refused."""
        try:
            for row in self._rows(url, collections, area, period):
                try:
                    item = {"collection": collections[0], **item_of(row)}
                except UnusableItem as error:
                    found.refuse(str(error), str(row.get("id")))
                    continue
                if len(collections) > 1 and row.get("collection") is None:
                    raise CatalogError(
                        f"catalog {self.name}: row {item.get('id')!r} of {url} names no collection, and "
                        f"{' and '.join(collections)} are looked for there; ask for one in sources, or give each a "
                        f"file of its own with {{collection}} in catalogs.{self.name}.url"
                    )
                yield item
        except CatalogError:
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise CatalogError(
                f"catalog {self.name}: search of {url} for {query_text(collections, area, period)} failed: cannot read "
                f"it as stac-geoparquet ({' '.join(str(error).split())[:300]}); check catalogs.{self.name}.url"
            ) from error

    def _rows(
        self, url: str, collections: Sequence[str], area: BaseGeometry, period: Period | None
    ) -> Iterator[dict[str, Any]]:
        for file in self._patiently(url, partial(self._open, url)).get_fragments():
            for part, wanted in self._patiently(url, partial(_parts, file, collections, area, period)):
                for batch in self._patiently(url, partial(_matching, part, wanted)):
                    self._check_types(url, file.path, batch.schema)
                    yield from batch.to_pylist(maps_as_pydicts="strict")  # assets may be a map

    def _check_types(self, url: str, path: str, schema: pa.Schema) -> None:
        for column, understood in ENCODINGS.items():
            if column in schema.names and not understood.holds(schema.field(column).type):
                raise CatalogError(
                    f"catalog {self.name}: {url}: column {column} of {path} is of type "
                    f"{str(schema.field(column).type)[:100]}, not {understood.words}; write the file with such a "
                    f"column, or give another in catalogs.{self.name}.url"
                )

    def _open(self, url: str) -> pds.Dataset:
        filesystem, path = fsspec.core.url_to_fs(url, **self.storage_options)
        # A name of files, not the protocol's: ".parquet" folders of partitions hold "part-0" files as well.
        return pds.dataset(path, filesystem=filesystem, format="parquet", exclude_invalid_files=False)

    def _patiently(self, url: str, read: Callable[[], T]) -> T:
        """What reading gives, tried again as servers deserve it; the clients of object stores do so themselves."""

        def ask() -> T:
            try:
                return read()
            except aiohttp.ClientResponseError as error:
                raise RefusedRequest(error.status, dict(error.headers or {})) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise ConnectionError(f"{type(error).__name__}: {error}") from error
            except FileNotFoundError as error:
                if not url.startswith(("http://", "https://")):
                    raise FileNotFoundError(f"{url} does not exist") from error
                raise self._why_not_found(url) from error

        return patiently(ask)

    def _why_not_found(self, url: str) -> OSError:
        """What a server says of an address where fsspec says "not found" whatever the answer was."""
        headers = {**self.storage_options.get("headers", {}), "Range": "bytes=0-0"}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
                if answer.ok:
                    return ConnectionError(f"{url} was not found at first, and is there now")
                return RefusedRequest(answer.status_code, answer.headers)
        except requests.RequestException as error:
            return ConnectionError(f"{url} cannot be reached ({type(error).__name__})")


def _parts(
    file: pds.ParquetFileFragment, collections: Sequence[str], area: BaseGeometry, period: Period | None
) -> list[tuple[pds.ParquetFileFragment, pc.Expression | None]]:
    """The row groups of a file that may hold what is searched, and what says so of a row."""
    columns = file.physical_schema  # its own: writers leave out what no item of a file has
    wanted = _filter(columns, collections, area, period)
    return [(part, wanted) for part in file.split_by_row_group(wanted, columns)]


def _matching(part: pds.ParquetFileFragment, wanted: pc.Expression | None) -> list[pa.RecordBatch]:
    """The rows of a row group that may match."""
    columns = part.physical_schema
    batches = part.to_batches(schema=columns, filter=wanted, batch_size=BATCH_ROWS, batch_readahead=1)
    return [batch for batch in batches if batch.num_rows]


def _filter(
    schema: pa.Schema, collections: Sequence[str], area: BaseGeometry, period: Period | None
) -> pc.Expression | None:
    """What the files' columns can say of an area and period; anything that may match is kept."""
    west, south, east, north = area.bounds
    parts = []
    if "collection" in schema.names:
        named = pc.field("collection")
        parts.append(named.isin(list(collections)) | named.is_null())
    if "bbox" in schema.names and pa.types.is_struct(schema.field("bbox").type):
        names = {field.name for field in schema.field("bbox").type}
        if {"xmin", "ymin", "xmax", "ymax"} <= names:
            box = {name: pc.field("bbox", name) for name in ("xmin", "ymin", "xmax", "ymax")}
            across = box["xmin"] > box["xmax"]  # RFC 7946: a box over the antimeridian
            beside = (box["xmin"] <= east) & (box["xmax"] >= west)
            touches = (across | beside) & (box["ymin"] <= north) & (box["ymax"] >= south)
            parts.append(touches | box["xmin"].is_null())
    if period is not None and "datetime" in schema.names and pa.types.is_timestamp(schema.field("datetime").type):
        kind = schema.field("datetime").type
        start, end = (
            pa.scalar(datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=UTC if kind.tz else None), kind)
            for ms in (period.start_ms, period.end_ms)
        )
        moment = pc.field("datetime")
        inside = (moment >= start) & (moment < end)
        # An item with an interval may state its start as its moment: the interval decides, later.
        interval = pc.field("start_datetime").is_valid() if "start_datetime" in schema.names else pc.scalar(False)
        parts.append(inside | moment.is_null() | interval)
    return reduce(and_, parts) if parts else None
