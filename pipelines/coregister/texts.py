"""Geolocated texts of a window, from GeoParquet or GeoJSON files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache

import fsspec
import geopandas as gpd
import numpy as np
from shapely import box

from pipelines.coregister.fetch import Failure, Signers, retrying, signer_of
from pipelines.coregister.frames import ReadFailure
from pipelines.grid import WGS84, Period, Window, reproject
from pipelines.scenes import Scene
from pipelines.sequence import TextSamples
from pipelines.sources.base import Source

COLUMNS = ("text", "start_ms", "end_ms", "uncertainty_m")


def read_texts(
    scenes: Sequence[Scene], window: Window, period: Period, source: Source, sign: Signers = None
) -> tuple[TextSamples | None, list[ReadFailure]]:
    """The texts whose point lies in a window and whose validity meets a period.

    A file holds points with columns ``text``, ``start_ms``, ``end_ms`` (half-open) and ``uncertainty_m``. Vectors are
    made later, by a frozen language model: here they are ``(K, 0)``.
    """
    failures: list[ReadFailure] = []
    found: dict[tuple, tuple] = {}
    west, south, east, north = window.footprint().bounds
    for scene in scenes:
        for asset in scene.assets.values():
            table = retrying(text_table, asset.href, signer_of(sign, scene))
            if isinstance(table, Failure):
                failures.append(ReadFailure(source.name, scene.scene_id, asset.href, table.kind, table.reason))
                continue
            near = table[table.intersects(box(west, south, east, north))]
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


@lru_cache(maxsize=16)
def text_table(href: str) -> gpd.GeoDataFrame:
    """A file of texts in WGS 84, read whole: texts of a region are small beside one image."""
    files, path = fsspec.core.url_to_fs(href)
    # One request whose refusal comes back as it is; opening a file asks for its size first and calls any refusal a 404.
    read: bytes = files.cat_file(path)
    content = io.BytesIO(read)
    parquet = read[:4] == b"PAR1"
    table = gpd.read_parquet(content) if parquet else gpd.read_file(content)
    lacking = [column for column in COLUMNS if column not in table.columns]
    if lacking:
        raise ValueError(f"{href} lacks the column(s) {', '.join(lacking)}; a file of texts has {', '.join(COLUMNS)}")
    return table.to_crs(WGS84) if table.crs is not None else table.set_crs(WGS84)
