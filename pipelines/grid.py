"""Where and when: periods, windows on the 10 m UTM grid, training sites and output tiles.

Immutable value types over odc-geo and pyproj. Every window is anchored to whole multiples of the resolution, edges
(never centres) are stated, x grows to the east and row 0 is the northernmost row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil, floor

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer
from shapely import bounds, box, segmentize, transform, union_all
from shapely.affinity import translate
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

RESOLUTION_M = 10
WGS84 = 4326
DAY_MS = 86_400_000


def parse_time_ms(text: str) -> int:
    """UTC epoch milliseconds of an RFC 3339 date or date-time; a time without zone is taken as UTC."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)


def format_time(time_ms: int) -> str:
    """RFC 3339 text of UTC epoch milliseconds, with milliseconds only where there are any."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace("+00:00", "Z")


@dataclass(frozen=True, order=True)
class Period:
    """A half-open stretch of time ``[start_ms, end_ms)``, UTC epoch milliseconds."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if self.end_ms <= self.start_ms:
            raise ValueError(
                f"period ends ({format_time(self.end_ms)}) before it starts ({format_time(self.start_ms)})"
            )

    @classmethod
    def from_iso(cls, start: str, end: str) -> Period:
        return cls(parse_time_ms(start), parse_time_ms(end))

    @classmethod
    def calendar_year(cls, year: int) -> Period:
        return cls.from_iso(f"{year}-01-01", f"{year + 1}-01-01")

    @property
    def days(self) -> float:
        return (self.end_ms - self.start_ms) / DAY_MS

    @property
    def label(self) -> str:
        """The year for a calendar year, else both dates."""
        start, end = format_time(self.start_ms)[:10], format_time(self.end_ms)[:10]
        if start.endswith("-01-01") and end == f"{int(start[:4]) + 1}-01-01":
            return start[:4]
        return f"{start}_{end}"

    def contains(self, time_ms: int) -> bool:
        return self.start_ms <= time_ms < self.end_ms

    def is_of(self, year: int) -> bool:
        """Whether the period is that of a year's labels: it holds the year's first of July."""
        return self.contains(parse_time_ms(f"{year:04d}-07-01"))

    def intersects(self, other: Period) -> bool:
        return self.start_ms < other.end_ms and other.start_ms < self.end_ms

    @property
    def datetime_range(self) -> str:
        """The closed interval that a STAC ``datetime`` parameter wants."""
        return f"{format_time(self.start_ms)}/{format_time(self.end_ms - 1)}"


def utm_epsg(lon: float, lat: float) -> int:
    """EPSG code of the standard six-degree UTM zone that owns a point (no Norway or Svalbard exceptions)."""
    zone = min(int((lon + 180) // 6) + 1, 60)
    return (32600 if lat >= 0 else 32700) + zone


def is_utm(epsg: int | None) -> bool:
    """Whether a code is that of a UTM zone on WGS 84."""
    return epsg is not None and (32601 <= epsg <= 32660 or 32701 <= epsg <= 32760)


def zone_name(epsg: int) -> str:
    """``32631`` -> ``31N``, as in the folders of the public AlphaEarth dataset."""
    if not is_utm(epsg):
        raise ValueError(f"EPSG:{epsg} is not a UTM zone")
    return f"{epsg % 100}{'N' if epsg < 32700 else 'S'}"


def zone_wedge(epsg: int) -> tuple[float, float]:
    """Western and eastern longitude of a UTM zone in degrees.

    A pixel belongs to the zone whose wedge holds its centre.
    """
    zone = epsg % 100
    return -180.0 + (zone - 1) * 6, -180.0 + zone * 6


@lru_cache(maxsize=64)
def transformer(src_epsg: int | str, dst_epsg: int | str) -> Transformer:
    """A cached pyproj transformer with x, y (lon, lat) axis order, from and to EPSG codes or CRS as WKT."""
    return Transformer.from_crs(src_epsg, dst_epsg, always_xy=True)


@lru_cache(maxsize=64)
def is_geographic(epsg: int | str) -> bool:
    """Whether coordinates are longitudes and latitudes, of an EPSG code or a CRS as WKT."""
    return bool(CRS.from_user_input(epsg).is_geographic)


def turned_back(outline: BaseGeometry) -> BaseGeometry:
    """An outline in degrees that reaches past 180 on either side, as its parts within -180 to 180."""
    turns = ((outline.intersection(box(-180 + k, -90, 180 + k, 90)), -k) for k in (-360, 0, 360))
    return union_all([translate(part, shift) for part, shift in turns])


def unwrap(lon: NDArray[np.float64], meridian: float) -> NDArray[np.float64]:
    """Longitudes within half a turn of a meridian, past 180 degrees where need be."""
    return lon - 360 * np.round((lon - meridian) / 360)


def reproject(geometry: BaseGeometry, src_epsg: int | str, dst_epsg: int | str) -> BaseGeometry:
    """A geometry in another CRS, vertex by vertex and without heights; EPSG codes or CRS as WKT."""
    if src_epsg == dst_epsg:
        return geometry
    return transform(geometry, transformer(src_epsg, dst_epsg).transform, interleaved=False)


def in_degrees(outlines: NDArray[np.object_], epsg: int, spacing_m: float) -> NDArray[np.object_]:
    """Polygons of a UTM zone in WGS 84 degrees, those across 180 degrees in two parts.

    Args:
        outlines: any shape, metres.
        epsg: their zone.
        spacing_m: edges get a corner at least this often, so that they stay curved.
    """
    meridian = sum(zone_wedge(epsg)) / 2
    to_degrees = transformer(epsg, WGS84).transform
    found = transform(segmentize(outlines, spacing_m), to_degrees, interleaved=False)
    whole = transform(found, lambda lon, lat: (unwrap(lon, meridian), lat), interleaved=False)
    limits = bounds(whole)
    for place in zip(*np.nonzero((limits[..., 0] < -180) | (limits[..., 2] > 180)), strict=True):
        found[place] = turned_back(whole[place])
    return found


@dataclass(frozen=True, order=True)
class Window:
    """A rectangle of pixels of the UTM grid.

    Attributes:
        epsg: UTM zone.
        left_m, top_m: western and northern edge in metres, multiples of the resolution.
        width_px, height_px: size in pixels.
        resolution_m: pixel size.
    """

    epsg: int
    left_m: int
    top_m: int
    width_px: int
    height_px: int
    resolution_m: int = RESOLUTION_M

    def __post_init__(self) -> None:
        if self.left_m % self.resolution_m or self.top_m % self.resolution_m:
            raise ValueError(f"window edge ({self.left_m}, {self.top_m}) is off the {self.resolution_m} m grid")
        if self.width_px < 1 or self.height_px < 1:
            raise ValueError(f"empty window {self.width_px} x {self.height_px} px")

    @property
    def bounds_m(self) -> tuple[int, int, int, int]:
        """west, south, east, north in metres."""
        return (
            self.left_m,
            self.top_m - self.height_px * self.resolution_m,
            self.left_m + self.width_px * self.resolution_m,
            self.top_m,
        )

    @property
    def transform(self) -> Affine:
        """Pixel (column, row) to metres, edge anchored, north up."""
        return Affine(self.resolution_m, 0, self.left_m, 0, -self.resolution_m, self.top_m)

    @property
    def geobox(self) -> GeoBox:
        return GeoBox((self.height_px, self.width_px), self.transform, f"EPSG:{self.epsg}")

    @property
    def shape(self) -> tuple[int, int]:
        """rows, columns."""
        return self.height_px, self.width_px

    def pad(self, margin_px: int) -> Window:
        """The window with a margin added (or, when negative, taken off) on every side."""
        shift = margin_px * self.resolution_m
        return Window(
            self.epsg,
            self.left_m - shift,
            self.top_m + shift,
            self.width_px + 2 * margin_px,
            self.height_px + 2 * margin_px,
            self.resolution_m,
        )

    def polygon(self) -> Polygon:
        """Outline in the window's own CRS, metres."""
        return box(*self.bounds_m)

    def footprint(self) -> BaseGeometry:
        """Outline in WGS 84 degrees, densified so that curved edges are kept; in two parts across 180 degrees."""
        side_m = max(self.width_px, self.height_px) * self.resolution_m
        outline: BaseGeometry = in_degrees(np.array([self.polygon()]), self.epsg, side_m / 8)[0]
        return outline

    def pixel(self, x_m: float, y_m: float) -> tuple[int, int]:
        """Row and column of the pixel that holds a point; may lie outside."""
        return floor((self.top_m - y_m) / self.resolution_m), floor((x_m - self.left_m) / self.resolution_m)

    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixel-centre x of every column and y of every row, in metres."""
        x = self.left_m + (np.arange(self.width_px) + 0.5) * self.resolution_m
        y = self.top_m - (np.arange(self.height_px) + 0.5) * self.resolution_m
        return np.asarray(x, np.float64), np.asarray(y, np.float64)

    def owned(self) -> NDArray[np.bool_]:
        """``(H, W)``, True where the pixel centre lies in this zone's own six-degree wedge.

        Two zones overlap on the ground; this rule gives every point of the Earth exactly one owner.
        """
        west, east = zone_wedge(self.epsg)
        x, y = self.centres()
        lon, _ = transformer(self.epsg, WGS84).transform(*np.meshgrid(x, y))
        # A longitude is the same number of degrees from the meridian wherever it wraps.
        centre = (west + east) / 2
        offset = (np.asarray(lon) - centre + 180) % 360 - 180
        return (offset >= west - centre) & (offset < east - centre)


@dataclass(frozen=True, order=True)
class Site:
    """Where one or more training sequences are drawn.

    Attributes:
        site_id: stable name made from zone and position.
        window: usually 128 x 128 px; smaller where the area is.
        split: "train" or "test".
        stratum: what it was drawn for; empty without strata.
        periods: labels of the support periods of its sequences; empty: all.
    """

    site_id: str
    window: Window
    split: str
    stratum: str = ""
    periods: tuple[str, ...] = ()

    @classmethod
    def at(cls, window: Window, split: str, stratum: str = "", periods: tuple[str, ...] = ()) -> Site:
        return cls(f"{zone_name(window.epsg)}_{window.left_m}_{window.top_m}", window, split, stratum, periods)

    def is_drawn_in(self, period: Period) -> bool:
        """Whether it has a sequence of a period."""
        return not self.periods or period.label in self.periods


@dataclass(frozen=True, order=True)
class Tile:
    """One square of output on a zone's tile grid; row and column count from the zone's origin, row northwards.

    Attributes:
        tile_id: ``31N_r00123_c00045``.
        window: without margin.
    """

    tile_id: str
    window: Window

    @classmethod
    def at(cls, epsg: int, row: int, col: int, size_px: int) -> Tile:
        side_m = size_px * RESOLUTION_M
        window = Window(epsg, col * side_m, (row + 1) * side_m, size_px, size_px)
        return cls(f"{zone_name(epsg)}_r{row:05d}_c{col:05d}", window)


def zones_of(area: BaseGeometry) -> list[int]:
    """EPSG codes of the UTM zones whose wedges an area in WGS 84 touches, hemisphere by hemisphere."""
    if area.is_empty:
        return []
    west, south, east, north = area.bounds
    zones = []
    for hemisphere, low, high in ((32600, 0.0, 84.0), (32700, -80.0, 0.0)):
        if north <= low or south >= high:
            continue
        for zone in range(floor((west + 180) / 6) + 1, ceil((east + 180) / 6) + 1):
            zone = (zone - 1) % 60 + 1
            wedge = zone_wedge(hemisphere + zone)
            part = area.intersection(box(wedge[0], low, wedge[1], high))
            if not part.is_empty and part.area > 0:
                zones.append(hemisphere + zone)
    return sorted(set(zones))


def area_in_zone(area: BaseGeometry, epsg: int) -> BaseGeometry:
    """The part of an area (WGS 84) that a zone owns, in metres of that zone."""
    west, east = zone_wedge(epsg)
    low, high = (0.0, 84.0) if epsg < 32700 else (-80.0, 0.0)
    part = area.intersection(box(west, low, east, high))
    if part.is_empty:
        return part
    return reproject(segmentize(part, 0.02), WGS84, epsg)


def tiles_covering(area: BaseGeometry, size_px: int) -> Iterator[Tile]:
    """The tiles, zone by zone, that hold at least one point owned by their zone of an area in WGS 84."""
    side_m = size_px * RESOLUTION_M
    for epsg in zones_of(area):
        part = area_in_zone(area, epsg)
        west, south, east, north = part.bounds
        for row in range(floor(south / side_m), ceil(north / side_m)):
            for col in range(floor(west / side_m), ceil(east / side_m)):
                tile = Tile.at(epsg, row, col, size_px)
                if part.intersects(tile.window.polygon()) and part.intersection(tile.window.polygon()).area > 0:
                    yield tile
