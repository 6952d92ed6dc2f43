"""Smooth random fields that can be asked for at any point: the same answer whoever asks, in whatever order."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_LATTICE = 256


def generator(seed: int, *key: object) -> np.random.Generator:
    """A random generator of its own for every key, equal in every process."""
    digest = hashlib.sha256(repr((seed, *key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


class NoiseField:
    """Value noise summed over octaves, about zero mean and unit variance.

    Args:
        seed: of the world.
        key: name of the field.
        wavelength_m: of the coarsest octave.
        octaves, gain: number of octaves, each of half the wavelength and ``gain`` times the amplitude.
        ridged: fold every octave at zero, which makes ridges and valleys.
    """

    def __init__(
        self, seed: int, key: object, wavelength_m: float, octaves: int = 4, gain: float = 0.5, ridged: bool = False
    ) -> None:
        rng = generator(seed, "noise", key)
        self._tables = [rng.standard_normal((_LATTICE, _LATTICE)).astype(np.float32) for _ in range(octaves)]
        self._phase = rng.uniform(0, _LATTICE, (octaves, 2))
        self._wavelength = [wavelength_m / 2**k for k in range(octaves)]
        amplitude = np.array([gain**k for k in range(octaves)])
        # Bilinear-quintic interpolation of unit normals keeps 0.55 of their variance on average.
        self._amplitude = amplitude / np.sqrt((amplitude**2).sum() * 0.55)
        self._ridged = ridged

    def __call__(self, x: NDArray, y: NDArray) -> NDArray[np.float32]:
        """The field at world points of any (equal) shape."""
        total = np.zeros(np.broadcast(x, y).shape, np.float32)
        for table, phase, wavelength, amplitude in zip(
            self._tables, self._phase, self._wavelength, self._amplitude, strict=True
        ):
            value: NDArray = _interpolate(table, x / wavelength + phase[0], y / wavelength + phase[1])
            if self._ridged:
                value = 1.0 - 1.7 * np.abs(value)
            total += np.float32(amplitude) * value
        return total


def _interpolate(table: NDArray[np.float32], u: NDArray, v: NDArray) -> NDArray[np.float32]:
    u0, v0 = np.floor(u), np.floor(v)
    fu, fv = (u - u0).astype(np.float32), (v - v0).astype(np.float32)
    iu, iv = u0.astype(np.int64) & (_LATTICE - 1), v0.astype(np.int64) & (_LATTICE - 1)
    iu1, iv1 = (iu + 1) & (_LATTICE - 1), (iv + 1) & (_LATTICE - 1)
    fu = fu * fu * fu * (fu * (fu * 6 - 15) + 10)
    fv = fv * fv * fv * (fv * (fv * 6 - 15) + 10)
    low = table[iv, iu] * (1 - fu) + table[iv, iu1] * fu
    high = table[iv1, iu] * (1 - fu) + table[iv1, iu1] * fu
    return low * (1 - fv) + high * fv
