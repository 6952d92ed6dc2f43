"""Geolocated texts of a window, from GeoParquet or GeoJSON files."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from aiohttp import ClientTimeout
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray
from pandas.api.types import is_numeric_dtype
from shapely import STRtree, box, total_bounds
from shapely.geometry.base import BaseGeometry

from pipelines.coregister.engines import CorruptBlock
from pipelines.coregister.fetch import Failure, Sign, Signers, retrying, signer_of, storage_options
from pipelines.coregister.frames import ReadFailure
from pipelines.grid import WGS84, Period, Window, reproject
from pipelines.polygons import in_wgs84, read_features
from pipelines.scenes import Scene
from pipelines.sequence import TextSamples
from pipelines.sources.base import Source

COLUMNS = ("text", "start_ms", "end_ms", "uncertainty_m")
TIMES = ("start_ms", "end_ms")
# Few enough that articles of tens of kilobytes, of which most lie elsewhere, stay small.
BATCH_ROWS = 2048
KEPT_COPIES = 16
ORPHANED_S = 60
_PREFIX = "aef-texts-"
# A large file may take long, but not stand still.
_TIMEOUT = ClientTimeout(total=None, sock_connect=60, sock_read=60)


def read_texts(
    scenes: Sequence[Scene], window: Window, period: Period, source: Source, sign: Signers = None
) -> tuple[TextSamples | None, list[ReadFailure]]:
    """The texts whose point lies in a window and whose validity meets a period.

    A file holds points with columns ``text``, ``start_ms``, ``end_ms`` (half-open) and ``uncertainty_m``. Vectors are
    made later, by a frozen language model: here they are ``(K, 0)``.
    """
    failures: list[ReadFailure] = []
    found: dict[tuple, tuple] = {}
    around = [box(*window.footprint().bounds)]
    for scene in scenes:
        for asset in scene.assets.values():
            near = texts_within(asset.href, around, signer_of(sign, scene))
            if isinstance(near, Failure):
                failures.append(ReadFailure(source.name, scene.scene_id, asset.href, near.kind, near.reason))
                continue
            for row in near.itertuples(index=False):
                point = reproject(row.geometry.representative_point(), WGS84, window.epsg)
                pixel = window.pixel(point.x, point.y)
                inside = 0 <= pixel[0] < window.height_px and 0 <= pixel[1] < window.width_px
                if inside and row.start_ms < period.end_ms and period.start_ms < row.end_ms:
                    key = (*pixel, int(row.start_ms), int(row.end_ms), str(row.text))
                    found[key] = (float(row.uncertainty_m),)
    if not found:
        return None, failures
    keys = sorted(found)
    samples = TextSamples(
        row=np.array([key[0] for key in keys], np.int32),
        col=np.array([key[1] for key in keys], np.int32),
        valid_ms=np.array([key[2:4] for key in keys], np.int64),
        uncertainty_m=np.array([found[key][0] for key in keys], np.float32),
        text=tuple(key[4] for key in keys),
        vector=np.empty((len(keys), 0), np.float32),
    )
    return samples, failures


def texts_within(
    href: str, places: Sequence[BaseGeometry], sign: Sign | None, columns: Sequence[str] = COLUMNS
) -> gpd.GeoDataFrame | Failure:
    """The rows of a file whose geometry meets any of some places, all in WGS 84.

    Of a GeoParquet file no more is held than :data:`BATCH_ROWS` rows and those that are wanted; files from elsewhere
    are copied to this machine's disk first, :data:`KEPT_COPIES` of them at most.

    Args:
        href: address of the file, unsigned.
        places: polygons in WGS 84.
        sign: makes the address one that can be opened.
        columns: that are wanted, of :data:`COLUMNS`; all must be there.
    """
    tree = STRtree(places)

    def read(signed: str) -> gpd.GeoDataFrame:
        copy = _copies.of(href, signed, storage_options(sign, href))
        try:
            parts = [part for part in _parts(copy, href, tree, list(columns)) if len(part)]
        except pa.ArrowInvalid as error:
            _copies.forget(href)  # the next attempt asks for the file itself
            raise CorruptBlock(f"{href} is no sound Parquet file: {error}") from error
        except ValueError:  # a sound file, but none of texts
            raise
        except Exception:
            _copies.forget(href)
            raise
        if not parts:
            return gpd.GeoDataFrame({name: [] for name in columns}, geometry=[], crs=WGS84)
        return gpd.GeoDataFrame(pd.concat(parts, ignore_index=True), crs=WGS84)

    return retrying(read, href, sign)


def _parts(path: str, href: str, tree: STRtree, columns: list[str]) -> Iterator[gpd.GeoDataFrame]:
    """A file's rows that meet a place, in WGS 84: batch after batch, of other formats than GeoParquet at once."""
    if os.path.isdir(path):
        raise ValueError(f"{href} is a folder; give each of its files an item or an asset of its own")
    with open(path, "rb") as opened:
        parquet = opened.read(4) == b"PAR1"
    if not parquet:
        table = read_features(path, tuple(total_bounds(tree.geometries).tolist()))
        _check(table.columns, href)
        yield _usable(table[[*columns, "geometry"]].iloc[_meeting(table.geometry, tree)], href)
        return
    # Pages are read as they are needed: writers put a million rows into one group.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
        _check(file.schema_arrow.names, href)
        name, crs, encoding = _geometry_column(file.schema_arrow, href)
        for batch in file.iter_batches(BATCH_ROWS, columns=[*columns, name]):
            shapes = batch.column(name)
            if encoding == "WKB":
                places = gpd.GeoSeries.from_wkb(shapes.to_numpy(zero_copy_only=False), crs=crs)
            else:
                x, y = (pc.struct_field(shapes, axis).to_numpy(zero_copy_only=False) for axis in "xy")
                places = gpd.GeoSeries.from_xy(x, y, crs=crs)
            places = in_wgs84(places)
            rows = _meeting(places, tree)
            held = batch.select(columns).take(pa.array(rows)).to_pandas()
            yield _usable(gpd.GeoDataFrame(held, geometry=places.iloc[rows].reset_index(drop=True)), href)


def _usable(table: gpd.GeoDataFrame, href: str) -> gpd.GeoDataFrame:
    """Without rows that have no text or no time.

    Raises:
        ValueError: times that are no whole numbers.
    """
    table = table.dropna(subset=[name for name in ("text", *TIMES) if name in table.columns])
    for name in TIMES:
        if len(table) and not (is_numeric_dtype(table[name]) and (table[name] % 1 == 0).all()):
            raise ValueError(
                f"{href}: {name} holds {table[name].dtype}; times of texts are whole milliseconds since 1970, UTC"
            )
    return table.astype({name: np.int64 for name in TIMES}) if len(table) else table


def _meeting(places: gpd.GeoSeries, tree: STRtree) -> NDArray[np.intp]:
    """The rows whose geometry meets a place."""
    rows, _ = tree.query(places.to_numpy(), predicate="intersects")
    return np.unique(rows)


def _check(names: Sequence[str], href: str) -> None:
    if lacking := [column for column in COLUMNS if column not in names]:
        raise ValueError(f"{href} lacks the column(s) {', '.join(lacking)}; a file of texts has {', '.join(COLUMNS)}")


def _geometry_column(schema: pa.Schema, href: str) -> tuple[str, Any, str]:
    """Name, CRS and encoding of the places in a GeoParquet file."""
    stated = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
    name = stated.get("primary_column")
    if name not in schema.names:
        raise ValueError(f"{href} is no GeoParquet file: it names no column of geometries")
    column = stated["columns"][name]
    if column["encoding"] not in ("WKB", "point"):
        raise ValueError(f"{href} holds geometries as {column['encoding']!r}; write points, or any geometry as WKB")
    return name, column.get("crs", WGS84) or WGS84, column["encoding"]


class _Copies:
    """Files from elsewhere, on this machine's disk while they are among the last that were asked for."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._swept = False

    def of(self, href: str, signed: str, options: Mapping[str, Any]) -> str:
        """Path of a file: its own, or its copy's."""
        patience = {"client_kwargs": {"timeout": _TIMEOUT}} if signed.startswith(("http://", "https://")) else {}
        files, path = fsspec.core.url_to_fs(signed, **patience, **options)
        if isinstance(files, LocalFileSystem):
            return path
        with self._lock:
            if not self._swept:
                _remove_orphans()
                self._swept = True
            if href not in self._kept:
                copy = tempfile.NamedTemporaryFile(prefix=_PREFIX, suffix=Path(href.partition("?")[0]).suffix)
                fcntl.flock(copy, fcntl.LOCK_EX)
                # One request whose refusal comes back as it is; opening a file calls any refusal a 404.
                files.get_file(path, copy.name)
                self._kept[href] = copy
                if len(self._kept) > KEPT_COPIES:
                    self._kept.popitem(last=False)[1].close()
            self._kept.move_to_end(href)
            return self._kept[href].name

    def forget(self, href: str) -> None:
        """A copy was of no use."""
        with self._lock:
            if (copy := self._kept.pop(href, None)) is not None:
                copy.close()


def _remove_orphans() -> None:
    """Removes the copies of processes that were killed: nobody holds their locks."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), path.open("rb") as copy:
            if time.time() - path.stat().st_mtime > ORPHANED_S:  # a younger one may not be locked yet
                fcntl.flock(copy, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


_copies = _Copies()
