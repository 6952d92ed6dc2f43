"""The plain engine: one rasterio window a crop, in a pool of threads."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray

from pipelines.coregister.engines.base import Crop, in_threads, opened, read_pixels


class RasterioEngine:
    """Reads windows with rasterio."""

    def read(self, crops: Sequence[Crop], threads: int) -> list[NDArray | Exception]:
        """See :class:`pipelines.coregister.engines.base.Engine`."""
        return in_threads(read_crop, crops, threads)


def read_crop(crop: Crop) -> NDArray | Exception:
    """One crop's pixels, or why there are none."""
    try:
        with opened(crop) as dataset:
            return read_pixels(dataset, crop, crop.window)
    except Exception as error:  # handed to the caller, who classifies it
        return error
