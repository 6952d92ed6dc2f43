"""A static STAC catalog held in memory and searched: the back end of the sandbox's server.

Items are kept serialised, their local asset addresses already rewritten, so that answering a page is a join of bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
from cql2 import Expr
from numpy.typing import NDArray
from shapely import STRtree, from_geojson, union_all
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

from pipelines.grid import parse_time_ms

BASE = "http://base.invalid"  # stands for the server's own address in serialised items; RFC 2606 keeps it unused
_NEVER = (1, 0)  # an empty span of time
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "startsWith": lambda a, b: str(a).startswith(b),
    "endsWith": lambda a, b: str(a).endswith(b),
    "contains": lambda a, b: b in a,
    "in": lambda a, b: a in b,
}


@dataclass(frozen=True)
class Query:
    """One search, as the STAC API has it.

    Attributes:
        collections, ids: None: any.
        area: WGS 84.
        span_ms: inclusive first and last millisecond; None: open.
        filter: a CQL2 expression.
        query: the query extension's property -> operator -> value.
        sortby: (field, ascending).
    """

    collections: Sequence[str] | None = None
    ids: Sequence[str] | None = None
    area: BaseGeometry | None = None
    span_ms: tuple[int | None, int | None] = (None, None)
    filter: Expr | None = None
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sortby: Sequence[tuple[str, bool]] = ()


class Library:
    """The collections and items of one static catalog folder."""

    def __init__(self, catalog: str | Path) -> None:
        """Read every collection and item that the catalog links to.

        Args:
            catalog: folder with a ``catalog.json``, or the file itself.

        Raises:
            ValueError: when there is no catalog, or a linked file is missing, is not JSON or has no id.
        """
        path = Path(catalog)
        path = path / "catalog.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"no STAC catalog at {path}; give the folder that holds a catalog.json")
        self.catalog = _read(path)
        self.collections: dict[str, dict[str, Any]] = {}
        self.heads: list[dict[str, Any]] = []  # id, collection, geometry, bbox, properties
        self.bodies: list[bytes] = []
        assets: list[list[tuple[dict[str, Any], Path]]] = []
        items: list[dict[str, Any]] = []
        for item, file, collection_id in self._walk(path.resolve()):
            item["collection"] = item.get("collection") or collection_id
            local = []
            for asset in item.get("assets", {}).values():
                if (target := local_path(asset.get("href", ""), file.parent)) is not None:
                    local.append((asset, target))
            items.append(item)
            assets.append(local)
        self.asset_root = self._common_folder(path.resolve().parent, assets)
        self._files: set[str] = set()
        for item, local in zip(items, assets, strict=True):
            for asset, target in local:
                relative = target.relative_to(self.asset_root).as_posix()
                self._files.add(relative)
                asset["href"] = f"{BASE}/assets/{quote(relative)}"
            self._add(item)
        self._index()

    def __len__(self) -> int:
        return len(self.bodies)

    def asset(self, relative: str) -> Path | None:
        """The file of an asset that some item names, or a part of a directory asset (Zarr); None for any other path."""
        pure = PurePosixPath(relative)
        if pure.is_absolute() or ".." in pure.parts:
            return None
        if str(pure) not in self._files and not any(str(parent) in self._files for parent in pure.parents):
            return None
        file = self.asset_root / pure
        # A link inside a directory asset must not lead out of the folder that is served.
        return file if Path(os.path.realpath(file)).is_relative_to(self._real_root) else None

    def find(self, query: Query) -> NDArray[np.int64]:
        """Indices of the matching items, newest first unless the query sorts otherwise."""
        keep = np.ones(len(self), dtype=bool)
        if query.area is not None:
            keep[:] = False
            keep[self._tree_items[self._tree.query(query.area, predicate="intersects")]] = True
        first, last = query.span_ms
        if first is not None or last is not None:
            keep &= self._first <= self._last
        if first is not None:
            keep &= self._last >= first
        if last is not None:
            keep &= self._first <= last
        if query.collections is not None:
            keep &= np.isin(self._collection, list(query.collections))
        if query.ids is not None:
            keep &= np.isin(self._id, list(query.ids))
        found = np.flatnonzero(keep)
        if query.query:
            found = found[[self._satisfies(self.heads[i], query.query) for i in found]] if len(found) else found
        if query.filter is not None:
            found = found[[_matches(query.filter, self.heads[i]) for i in found]] if len(found) else found
        ordered = sorted(found.tolist(), key=lambda i: (-int(self._first[i]), self._collection[i], self._id[i]))
        for name, ascending in reversed(query.sortby):
            known = [i for i in ordered if property_of(self.heads[i], name) is not None]
            unknown = [i for i in ordered if property_of(self.heads[i], name) is None]
            known.sort(key=lambda i: property_of(self.heads[i], name), reverse=not ascending)
            ordered = known + unknown
        return np.array(ordered, dtype=np.int64)

    def queryables(self, collection: str | None) -> dict[str, Any]:
        """JSON Schema properties of everything that a filter can name."""
        kinds = {str: "string", bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
        found: dict[str, Any] = {"id": {"type": "string"}, "collection": {"type": "string"}}
        for head in self.heads:
            if collection in (None, head["collection"]):
                for name, value in head["properties"].items():
                    if value is not None:
                        found.setdefault(name, {"type": kinds[type(value)]})
        return found

    def _walk(self, start: Path) -> Iterator[tuple[dict[str, Any], Path, str | None]]:
        pending = [(start, self.catalog, None)]
        while pending:
            file, node, collection_id = pending.pop()
            if node.get("type") == "Collection":
                collection_id = node["id"]
                self.collections[collection_id] = node
            for link in node.get("links", []):
                if link.get("rel") not in ("child", "item"):
                    continue
                target = local_path(link["href"], file.parent)
                if target is None:
                    raise ValueError(f"{file}: the link {link['href']} is not local; serve a self-contained catalog")
                if link["rel"] == "child":
                    pending.append((target, _read(target), collection_id))
                else:
                    yield _read(target), target, collection_id

    def _common_folder(self, catalog_folder: Path, assets: list[list[tuple[dict[str, Any], Path]]]) -> Path:
        folders = {str(target.parent) for local in assets for _, target in local}
        root = Path(os.path.commonpath(folders)) if folders else catalog_folder
        self._real_root = Path(os.path.realpath(root))
        return root

    def _add(self, item: dict[str, Any]) -> None:
        collection = f"{BASE}/collections/{quote(item['collection'] or '')}"
        item["links"] = [
            {"rel": "self", "type": "application/geo+json", "href": f"{collection}/items/{quote(item['id'])}"},
            {"rel": "root", "type": "application/json", "href": f"{BASE}/"},
            {"rel": "parent", "type": "application/json", "href": collection},
            {"rel": "collection", "type": "application/json", "href": collection},
            *(link for link in item.get("links", []) if str(link.get("href", "")).startswith(("http:", "https:"))),
        ]
        self.bodies.append(json.dumps(item, separators=(",", ":")).encode())
        head = {name: item.get(name) for name in ("id", "collection", "geometry", "bbox", "type")}
        self.heads.append({**head, "properties": item.get("properties") or {}})

    def _index(self) -> None:
        spans = [_span(head["properties"]) for head in self.heads]
        self._first = np.array([span[0] for span in spans], dtype=np.int64)
        self._last = np.array([span[1] for span in spans], dtype=np.int64)
        self._collection = np.array([head["collection"] or "" for head in self.heads], dtype=object)
        self._id = np.array([head["id"] for head in self.heads], dtype=object)
        self._tree_items = np.array([i for i, head in enumerate(self.heads) if head["geometry"]], dtype=np.int64)
        self._tree = STRtree([shape(self.heads[i]["geometry"]) for i in self._tree_items])
        self.position = {(head["collection"], head["id"]): i for i, head in enumerate(self.heads)}

    @staticmethod
    def _satisfies(head: Mapping[str, Any], query: Mapping[str, Mapping[str, Any]]) -> bool:
        for name, conditions in query.items():
            value = property_of(head, name)
            for operator, wanted in conditions.items():
                if operator not in _OPERATORS:
                    raise ValueError(f"query operator {operator!r} of {name} is not one of {', '.join(_OPERATORS)}")
                try:
                    if value is None or not _OPERATORS[operator](value, wanted):
                        return False
                except TypeError:  # values of different kinds do not compare
                    return False
        return True


def local_path(href: str, folder: Path) -> Path | None:
    """The absolute path of a relative or file href, None for one with another scheme."""
    if href.startswith("file://"):
        return Path(href[7:])
    if not href or "://" in href:
        return None
    return Path(os.path.normpath(folder / href))


def property_of(head: Mapping[str, Any], name: str) -> Any:
    """A property or top-level field by the name a query or sort uses."""
    name = name.removeprefix("properties.")
    return head["properties"].get(name) if name in head["properties"] else head.get(name)


def bbox_area(bbox: Sequence[float]) -> BaseGeometry:
    """The area of a 2-D or 3-D bbox; one whose west is east of its east crosses the antimeridian."""
    west, south, east, north = bbox if len(bbox) == 4 else (bbox[0], bbox[1], bbox[3], bbox[4])
    if west > east:
        return union_all([box(west, south, 180, north), box(-180, south, east, north)])
    return box(west, south, east, north)


def parse_area(geojson: Any) -> BaseGeometry:
    """A WGS 84 geometry from GeoJSON text or a dict."""
    return from_geojson(geojson if isinstance(geojson, str) else json.dumps(geojson))


def _matches(expression: Expr, head: dict[str, Any]) -> bool:
    try:
        return bool(expression.matches(head))
    except Exception as error:
        # cql2 raises this where an item lacks a property; SQL calls such a comparison unknown, which does not match.
        if "reduce expression to boolean" in str(error):
            return False
        raise ValueError(f"filter cannot be evaluated: {error}") from error


def _span(properties: Mapping[str, Any]) -> tuple[int, int]:
    start, end = properties.get("start_datetime"), properties.get("end_datetime")
    if start and end:
        return parse_time_ms(start), parse_time_ms(end)
    if properties.get("datetime"):
        moment = parse_time_ms(properties["datetime"])
        return moment, moment
    return _NEVER


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as STAC JSON ({error}); mend the file or the link to it") from error
    if not isinstance(document, dict) or not document.get("id"):
        raise ValueError(f"{path}: STAC JSON without an id")
    return document
