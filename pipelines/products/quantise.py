"""Unit vectors as signed bytes: the square-root companding of the public AlphaEarth dataset (SPEC 5.2).

Codes are -127 to 127; -128 in every band of a pixel means "no embedding here". Works on numpy arrays and torch tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

DIMENSIONS = 64
NODATA = -128
POWER = 2.0
SCALE = 127.5
LIMIT = 127


def dequantisation_table() -> NDArray[np.float64]:
    """The value of every code, indexed by ``code + 128``; nodata is NaN.

    In float64, because 154 of the 255 levels differ when the power is taken in float32.
    """
    codes = np.arange(NODATA, LIMIT + 1, dtype=np.float64)
    table = np.sign(codes) * (np.abs(codes) / SCALE) ** POWER
    table[0] = np.nan
    return table


def quantize(vectors: Any, valid: Any = None, *, axis: int = -1) -> Any:
    """Vectors to codes: ``clip(round(sign(x) |x|^(1/2) 127.5), -127, 127)``.

    Args:
        vectors: float, embedding dimensions along ``axis``.
        valid: bool, the shape of ``vectors`` without ``axis``; False gives nodata. None: all.
        axis: of the embedding dimensions.

    Returns:
        int8 of the same shape. A vector with any number that is not finite, or without length, is nodata in all bands.
    """
    xp = array_namespace(vectors)
    x = xp.astype(vectors, xp.float64)
    measured = xp.all(xp.isfinite(x), axis=axis, keepdims=True) & xp.any(x != 0, axis=axis, keepdims=True)
    if valid is not None:
        measured = measured & xp.expand_dims(valid, axis=axis)
    x = xp.where(measured, x, xp.zeros_like(x))
    codes = xp.clip(xp.round(xp.sign(x) * xp.sqrt(xp.abs(x)) * SCALE), -LIMIT, LIMIT)
    return xp.astype(xp.where(measured, codes, xp.full_like(codes, NODATA)), xp.int8)


def dequantize(codes: Any, *, axis: int = -1, renormalise: bool = False) -> Any:
    """Codes to float32 vectors: ``sign(q) (|q| / 127.5)^2``; nodata becomes NaN in all bands.

    Args:
        codes: int8.
        axis: of the embedding dimensions.
        renormalise: scale to length 1. The length as decoded is 0.99 to 1.01, which is not enough for dot products to
            be cosines.
    """
    xp = array_namespace(codes)
    table = xp.asarray(dequantisation_table().astype(np.float32), device=device(codes))
    index = xp.astype(codes, xp.int64) - NODATA
    vectors = xp.reshape(xp.take(table, xp.reshape(index, (-1,)), axis=0), codes.shape)
    if renormalise:
        length = xp.sqrt(xp.sum(vectors * vectors, axis=axis, keepdims=True))
        # An all-zero code vector has no direction; it stays zero.
        vectors = vectors / xp.where(length == 0, xp.ones_like(length), length)
    return vectors


def quantisation_facts() -> dict[str, Any]:
    """What a reader of any language needs to decode the codes, as JSON."""
    return {
        "method": "signed_power",
        "formula": "x = sign(q) * (abs(q) / scale) ** power",
        "power": POWER,
        "scale": SCALE,
        "nodata": NODATA,
        "first_code": NODATA,
        "lookup_table": [None, *dequantisation_table()[1:].tolist()],
    }
