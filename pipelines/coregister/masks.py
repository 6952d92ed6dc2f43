"""Which pixels of a frame were measured, and which count in the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.base import Band, Source, Transform


def is_nodata(values: NDArray, nodata: float) -> NDArray[np.bool_]:
    """True where a stored number means "not measured"; NaN always does."""
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        return missing if np.isnan(nodata) else missing | (values == nodata)
    if np.isnan(nodata):
        return np.zeros(values.shape, bool)
    return values == nodata


def is_measured(values: NDArray, nodata: float) -> NDArray[np.bool_]:
    """The opposite of :func:`is_nodata`."""
    missing = is_nodata(values, nodata)
    return np.logical_not(missing, out=missing)


def hide(values: NDArray, unmeasured: tuple[float, ...], nodata: float) -> NDArray:
    """The same array, in which numbers that mean "not measured" as well have become nodata."""
    for number in unmeasured:
        values[values == number] = nodata
    return values


def measuring(source: Source) -> list[int]:
    """Indices of the bands that measure the ground; an angle of view beside them does not."""
    found = [index for index, band in enumerate(source.bands) if band.transform is not Transform.RADIANS]
    return found or list(range(len(source.bands)))


def present(values: NDArray, nodata: float, source: Source | None = None) -> NDArray[np.bool_]:
    """``(..., C, H, W)`` -> ``(..., H, W)``: True where any measuring band holds a number."""
    bands = measuring(source) if source is not None else range(values.shape[-3])
    missing = np.ones((*values.shape[:-3], *values.shape[-2:]), bool)
    for index in bands:
        missing &= is_nodata(values[..., index, :, :], nodata)
        if not missing.any():
            break
    return np.logical_not(missing, out=missing)


def stored_range(band: Band, scale: float, offset: float) -> tuple[float, float]:
    """A band's valid range, stated in model space, as a range of stored numbers; every transform is monotonic."""
    inverses: dict[Transform, Callable[[float], float]] = {
        Transform.IDENTITY: lambda x: x,
        Transform.LOG: lambda x: np.expm1(10 * x),
        Transform.DECIBEL: lambda x: 10 ** (x / 10),
        Transform.RADIANS: np.rad2deg,
    }
    inverse = inverses[band.transform]
    ends = [(float(inverse(end)) / band.factor - offset) / scale if np.isfinite(end) else end for end in band.valid]
    return min(ends), max(ends)


def weight(
    source: Source,
    values: NDArray,
    scale: NDArray[np.float64],
    offset: NDArray[np.float64],
    masks: Mapping[str, NDArray],
) -> NDArray[np.uint8]:
    """255 where a frame's pixel was measured within a measuring band's valid range and the quality masks trust it.

    Less where they trust it in part, at least 1 where they do at all; 0 elsewhere. Pixels themselves are not touched.

    Args:
        source: says what its bands and masks mean.
        values: ``(C, H, W)`` stored numbers.
        scale: ``(C,)``.
        offset: ``(C,)``.
        masks: ``(H, W)`` by role, possibly none.
    """
    good = _usable(source, values, scale, offset)
    trusted = source.trusted(masks)
    if trusted is not None and trusted.dtype != bool:
        return np.ceil(255 * good * trusted).astype(np.uint8)
    if trusted is not None:
        good &= trusted
    return good.view(np.uint8) * np.uint8(255)


def _usable(
    source: Source, values: NDArray, scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """``(H, W)`` where any measuring band holds a number within its valid range."""
    bands = measuring(source)
    if not np.isfinite([source.bands[index].valid for index in bands]).any():
        return present(values, source.nodata, source)
    good = np.zeros(values.shape[1:], bool)
    for index in bands:
        low, high = stored_range(source.bands[index], float(scale[index]), float(offset[index]))
        good |= is_measured(values[index], source.nodata) & (values[index] >= low) & (values[index] <= high)
    return good
