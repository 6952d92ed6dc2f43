"""The stackstac engine: crops as dask arrays, one ``stackstac.stack`` call for all crops of one shape and type.

stackstac 0.5.1 is made safe: items are plain dictionaries in the projection extension's v1.1 form, CRS, resolution
and bounds are explicit and on the file's own pixel grid, nothing is rescaled or snapped, errors are never nodata. Its
reader is replaced by one that reads the file's window as it is: the stock reader puts a GDAL warp between file and
pixels whenever the window is not the whole file, and gives up the whole stack at the first broken file.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import stackstac
from dask.base import compute
from numpy.typing import NDArray
from rasterio.windows import Window as FileWindow

from pipelines.coregister.engines.base import Crop, opened, read_pixels

WEB_MERCATOR = 3857


@dataclass
class _Ledger:
    """What the readers of one stack read, by the key that stands for the URL, and what failed."""

    crops: dict[str, Crop]
    failures: dict[str, Exception] = field(default_factory=dict)
    token: str = field(default_factory=lambda: uuid4().hex)

    def __call__(self, *, url: str, dtype: np.dtype, fill_value: Any, **_unused: Any) -> _CropReader:
        """Makes a reader, as stackstac asks for one."""
        return _CropReader(self, url, dtype, fill_value)

    def __dask_tokenize__(self) -> str:
        """Two stacks are never the same to dask."""
        return self.token


@dataclass
class _CropReader:
    """stackstac's reader protocol over one file; failures go to the ledger instead of ending the stack."""

    ledger: _Ledger
    key: str
    dtype: np.dtype
    fill_value: Any

    def read(self, window: FileWindow, **_unused: Any) -> NDArray:
        crop = self.ledger.crops[self.key]
        inside = FileWindow(crop.col + window.col_off, crop.row + window.row_off, window.width, window.height)
        try:
            with opened(crop) as dataset:
                return read_pixels(dataset, crop, inside)
        except Exception as error:  # handed to the caller of the engine, who classifies it
            self.ledger.failures[self.key] = error
            return np.full((int(window.height), int(window.width)), self.fill_value, self.dtype)

    def close(self) -> None:
        """Nothing stays open between reads."""


class StackstacEngine:
    """Reads crops through stackstac and dask."""

    def read(self, crops: Sequence[Crop], threads: int) -> list[NDArray | Exception]:
        """See :class:`pipelines.coregister.engines.base.Engine`."""
        groups: dict[tuple, list[int]] = {}
        for index, crop in enumerate(crops):
            key = (crop.grid.epsg, crop.grid.step_x, crop.grid.step_y, crop.bounds, crop.dtype, str(crop.nodata))
            groups.setdefault(key, []).append(index)
        results: list[NDArray | Exception] = [ValueError("not read")] * len(crops)
        stacks, ledgers = [], []
        for members in groups.values():
            ledger = _Ledger({_key(position): crops[index] for position, index in enumerate(members)})
            stacks.append(_stack(ledger))
            ledgers.append(ledger)
        if threads <= 1:
            arrays = compute(*stacks, scheduler="synchronous")
        else:
            with ThreadPoolExecutor(threads) as pool:
                arrays = compute(*stacks, scheduler="threads", pool=pool)
        for members, array, ledger in zip(groups.values(), arrays, ledgers, strict=True):
            for position, index in enumerate(members):
                results[index] = ledger.failures.get(_key(position)) or array[position, 0]
        return results


_ASSET = "data"


def _key(position: int) -> str:
    # stackstac hands the reader nothing but the URL; a position is unique where one file is read twice.
    return f"crop-{position}"


def _stack(ledger: _Ledger) -> Any:
    """A dask array ``(crop, 1, y, x)`` with one chunk a crop."""
    crops = list(ledger.crops.values())
    first = crops[0]
    dtype = np.dtype(first.dtype)
    items = [_item(key, crop) for key, crop in ledger.crops.items()]
    stack = stackstac.stack(
        items,
        assets=[_ASSET],
        epsg=_label(first),
        resolution=(first.grid.step_x, -first.grid.step_y),
        bounds=first.bounds,
        snap_bounds=False,
        rescale=False,
        dtype=dtype,
        fill_value=dtype.type(first.nodata),
        chunksize=(1, 1, first.height, first.width),
        sortby_date=False,
        xy_coords=False,
        properties=False,
        band_coords=False,
        errors_as_nodata=(),
        reader=ledger,
    )
    if stack.shape != (len(crops), 1, first.height, first.width):
        raise ValueError(
            f"stackstac laid out {stack.shape} for {len(crops)} crops of {first.height} x {first.width} px"
        )
    return stack.data


def _label(crop: Crop) -> int:
    """A code, which stackstac wants, one for all crops of a stack; nothing is reprojected."""
    return crop.grid.epsg if isinstance(crop.grid.epsg, int) else WEB_MERCATOR


def _item(key: str, crop: Crop) -> dict[str, Any]:
    """A minimal STAC item (projection extension v1.1) for one crop."""
    grid = crop.grid
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": key,
        "properties": {"datetime": "2000-01-01T00:00:00Z"},
        "assets": {
            _ASSET: {
                "href": key,
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "proj:epsg": _label(crop),
                "proj:shape": [grid.height, grid.width],
                "proj:transform": [grid.step_x, 0.0, grid.left, 0.0, grid.step_y, grid.top],
            }
        },
    }
