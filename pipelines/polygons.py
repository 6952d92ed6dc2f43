"""Files of polygons: the area, strata, land. Read whole or near a box, valid and in WGS 84, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from shapely import box, make_valid, union_all
from shapely.geometry.base import BaseGeometry

from pipelines.config_errors import ConfigError
from pipelines.grid import WGS84

if TYPE_CHECKING:
    import geopandas as gpd

SOUTHERNMOST, NORTHERNMOST = -80.0, 84.0  # of the UTM zones, degrees of latitude
SIDE_DEG, BEND_DEG = 0.25, 0.01
_POLYGONS = ("Polygon", "MultiPolygon")
Bounds = tuple[float, float, float, float]


def misplaced(bounds: Bounds) -> str | None:
    """Why a box (west, south, east, north in degrees) is nowhere that can be mapped; None where it is fine."""
    west, south, east, north = bounds
    if not (-180 <= west <= 180 and -180 <= east <= 180):
        return (
            f"longitudes {west:g} to {east:g} are not within -180 to 180 degrees; give WGS 84 degrees, and split what "
            "crosses 180"
        )
    if not (-90 <= south <= 90 and -90 <= north <= 90):
        return (
            f"latitudes {south:g} to {north:g} are not within -90 to 90 degrees; give WGS 84 degrees, longitude first"
        )
    if south >= NORTHERNMOST or north <= SOUTHERNMOST:
        return (
            f"latitudes {south:g} to {north:g} have no UTM zone; move it between {SOUTHERNMOST:g} and {NORTHERNMOST:g}"
        )
    return None


def read_features(path: str, bounds: Bounds | None = None) -> gpd.GeoDataFrame:
    """The features of a file that GDAL reads, in WGS 84, which is also what one without a reference system is in.

    Args:
        path: of the file.
        bounds: west, south, east, north in degrees; features that touch it, and perhaps others close by.
    """
    import geopandas as gpd  # see read_polygons

    if bounds is None:
        return in_wgs84(gpd.read_file(path))
    if gpd.read_file(path, rows=1).crs is None:
        return in_wgs84(gpd.read_file(path, bbox=bounds))
    # Of a filter only the corners are projected: it gets many, and a margin for what the sides bend between them.
    around = box(*bounds).buffer(BEND_DEG, join_style="mitre").intersection(box(-180, -90, 180, 90))
    near = gpd.GeoSeries([around.segmentize(SIDE_DEG)], crs=WGS84)
    return in_wgs84(gpd.read_file(path, bbox=near))


def in_wgs84(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """A table, or a column of geometries, in WGS 84, which is also what one without a reference system is in."""
    return table.set_crs(WGS84) if table.crs is None else table.to_crs(WGS84)


def read_polygons(path: str, key: str, bounds: Bounds | None = None) -> gpd.GeoDataFrame:
    """The polygons of a file, in WGS 84 and valid.

    Args:
        path: GeoJSON, GeoPackage, shapefile or anything else that GDAL reads, or (Geo)Parquet. Without a reference
            system it is taken to be in WGS 84.
        key: of the configuration, for errors.
        bounds: west, south, east, north in degrees; only polygons that touch it.

    Raises:
        ConfigError: the file cannot be read, has no polygon (there), or coordinates that are no degrees.
    """
    import geopandas as gpd  # takes half a second, which a person who mistyped a key should not wait for

    near = None if bounds is None else box(*bounds)
    try:
        if path.endswith((".parquet", ".geoparquet")):
            table = in_wgs84(gpd.read_parquet(path))
        else:
            table = read_features(path, bounds)
    except Exception as error:  # GDAL, Arrow, pyproj and the clients of stores have no common one
        missing = "://" not in path and not Path(path).is_file()
        why = "no such file" if missing else " ".join(str(error).split())
        raise ConfigError(f"{key}: {path} cannot be read ({why}); give a file of polygons") from error
    found = sorted(table.geom_type.dropna().unique())
    table = table[table.geom_type.isin(_POLYGONS) & ~table.is_empty]
    if table.empty and near is None:
        raise ConfigError(
            f"{key}: {path} has no polygon (it has {', '.join(found) or 'no feature'}); give a file of polygons"
        )
    table = table.set_geometry(table.geometry.map(make_valid))
    if near is not None:
        table = table[table.intersects(near)]
        if table.empty:
            shown = tuple(round(value, 3) for value in bounds or ())
            raise ConfigError(f"{key}: {path} has no polygon in the area {shown}; give one of this region")
    elif problem := misplaced(tuple(table.total_bounds.tolist())):
        raise ConfigError(f"{key}: {path}: {problem}")
    return table


def read_area(path: str, key: str) -> BaseGeometry:
    """All polygons of a file as one geometry in WGS 84.

    Raises:
        ConfigError: as :func:`read_polygons`.
    """
    shape = read_polygons(path, key).geometry.union_all()
    # What mends a polygon may leave lines and points of no area.
    parts = [part for part in getattr(shape, "geoms", [shape]) if part.geom_type in _POLYGONS]
    if not parts or shape.area == 0:
        raise ConfigError(f"{key}: the polygons of {path} cover no ground; give some with an extent")
    return union_all(parts)
