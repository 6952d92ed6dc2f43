"""A row of stac-geoparquet as the STAC item that it was made from, whichever way the writer laid it out.

The specification has geometry as WKB and assets as a struct. Writers that cannot nest keep JSON text, and geometry as
WKT, hex WKB or GeoJSON text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
from shapely import from_wkb, from_wkt
from shapely.errors import ShapelyError
from shapely.geometry import mapping

from pipelines.catalogs.base import UnusableItem
from pipelines.grid import format_time

_TOP = ("type", "stac_version", "stac_extensions", "id", "collection", "geometry", "bbox", "links", "assets")
_LEFT_OUT = ("geometry", "bbox", "stac_extensions")
_HEX = re.compile(r"[0-9A-Fa-f]+")
_BYTE_ORDERS = (b"\x00", b"\x01")  # with one of which WKB begins, and no text


@dataclass(frozen=True)
class Encoding:
    """How a column may hold its part of an item: of which Arrow types, and how that is said."""

    holds: Callable[[pa.DataType], bool]
    words: str


def _is_text(kind: pa.DataType) -> bool:
    """Bytes too: older writers do not say of which bytes are text."""
    kind = _stored(kind)
    tests = (
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null),
        *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
    )
    return any(test(kind) for test in tests)


def _is_object(kind: pa.DataType) -> bool:
    kind = _stored(kind)
    return pa.types.is_struct(kind) or pa.types.is_map(kind) or _is_text(kind)


def _is_list(kind: pa.DataType) -> bool:
    kind = _stored(kind)
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is_text(kind)


def _is_geometry(kind: pa.DataType) -> bool:
    """GeoArrow's nested coordinates are not; a GeoJSON object as a struct is."""
    kind = _stored(kind)
    return _is_text(kind) or (pa.types.is_struct(kind) and kind.get_field_index("coordinates") >= 0)


def _stored(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _stored(kind.storage_type)
    return _stored(kind.value_type) if pa.types.is_dictionary(kind) else kind


_OBJECT = Encoding(_is_object, "a struct, a map or JSON text")
ENCODINGS = {
    "geometry": Encoding(_is_geometry, "WKB, hex WKB, WKT or GeoJSON"),
    "assets": _OBJECT,
    "properties": _OBJECT,
    "links": Encoding(_is_list, "a list or JSON text"),
}


def item_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the STAC item that it was made from.

    Columns have every key that any item has; what is null in a row was not in its item.

    Raises:
        UnusableItem: naming the column whose value cannot be understood.
    """
    item = {name: _plain(row[name]) for name in _TOP if name not in _LEFT_OUT and row.get(name) is not None}
    for name, kind in (("assets", dict), ("links", list)):
        if name in item:
            item[name] = _parsed(name, item[name], kind)
    properties = {name: _plain(value) for name, value in row.items() if name not in _TOP and value is not None}
    nested = _parsed("properties", properties.pop("properties", {}), dict)  # older writers keep them as one column
    item["properties"] = {**nested, **properties}
    item["geometry"] = _geometry(row.get("geometry"))
    return item


def _parsed(column: str, value: Any, kind: type) -> Any:
    """A value that may be JSON text."""
    if not isinstance(value, str | bytes):
        return value
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise _unreadable(column, "JSON") from error
    if parsed is not None and not isinstance(parsed, kind):
        raise _unreadable(column, f"a JSON {'object' if kind is dict else 'array'}")
    return kind() if parsed is None else parsed


def _geometry(value: Any) -> Any:
    """GeoJSON of a geometry in whichever encoding."""
    try:
        if isinstance(value, bytes) and value.startswith(_BYTE_ORDERS):
            return mapping(from_wkb(value))
        text = value.decode() if isinstance(value, bytes) else value
        if not isinstance(text, str):
            return text
        text = text.strip()
        if text.startswith("{") or text == "null":
            return json.loads(text)
        return mapping(from_wkb(text) if _HEX.fullmatch(text) else from_wkt(text))
    except (ValueError, ShapelyError) as error:
        raise _unreadable("geometry", ENCODINGS["geometry"].words) from error


def _unreadable(column: str, wanted: str) -> UnusableItem:
    return UnusableItem(f"the item is malformed (its column {column} holds text or bytes that are not {wanted})")


def _plain(value: Any) -> Any:
    """JSON-able, without what is null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return format_time(round(moment.timestamp() * 1000))
    return value.isoformat() if isinstance(value, date) else value
