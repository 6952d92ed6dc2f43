"""What optical sensors share: sun, surface images, atmosphere, misregistration."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.layers import Grid, Layers, upsample
from pipelines.sandbox.noise import generator
from pipelines.sandbox.spectra import GROUP, ParcelState
from pipelines.sandbox.weather import Sky
from pipelines.sandbox.world import World


@dataclass(frozen=True)
class Sun:
    """Azimuth clockwise from north and elevation, degrees."""

    azimuth_deg: float
    elevation_deg: float


def day_of_year(time_ms: int) -> float:
    """Days since 1 January 00:00 UTC, with fraction."""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return (moment - datetime(moment.year, 1, 1, tzinfo=UTC)).total_seconds() / 86_400


def sun_at(time_ms: int, lon: float, lat: float) -> Sun:
    """Position of the sun, good to a degree (Spencer's declination, mean solar time)."""
    day = day_of_year(time_ms)
    declination = np.deg2rad(23.44) * np.sin(2 * np.pi * (day - 80) / 365.25)
    hour = np.deg2rad(15 * ((day % 1) * 24 + lon / 15 - 12))
    phi = np.deg2rad(lat)
    up = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    east = -np.cos(declination) * np.sin(hour)
    north = np.cos(phi) * np.sin(declination) - np.sin(phi) * np.cos(declination) * np.cos(hour)
    return Sun(float(np.rad2deg(np.arctan2(east, north)) % 360), float(np.rad2deg(np.arcsin(up))))


@dataclass(frozen=True)
class Shading:
    """Per-pixel factors of a scene on one grid: texture by band group, each ``(H, W)``."""

    factors: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

    def surface(self, layers: Layers, table: NDArray[np.float32], band: int) -> NDArray[np.float32]:
        """Reflectance image of a band from the parcels' table ``(n, 13)``."""
        return np.take(np.ascontiguousarray(table[:, band]), layers.parcel) * self.factors[GROUP[band]]


def shade(layers: Layers, state: ParcelState, sun: Sun) -> Shading:
    """Texture and illumination of a scene; terrain correction has removed 40 % of the latter, as in real products."""
    brightness, greenness, rows = (np.ascontiguousarray(state.texture[:, k]) for k in range(3))
    base = 1 + np.take(brightness, layers.parcel) * layers.bright + np.take(rows, layers.parcel) * layers.rows
    green = np.take(greenness, layers.parcel) * layers.green
    # cos(incidence) / cos(zenith) of a plane with small slopes
    azimuth, cot = np.deg2rad(sun.azimuth_deg), 1 / np.tan(np.deg2rad(max(sun.elevation_deg, 12.0)))
    light = 1 - 0.6 * cot * (
        layers.slope_x * np.float32(np.sin(azimuth)) + layers.slope_y * np.float32(np.cos(azimuth))
    )
    base *= np.clip(light, 0.35, 1.6)
    np.clip(base, 0.25, 2.2, out=base)
    return Shading((base * (1 - green), base * (1 + 0.8 * green), base * (1 - 0.5 * green)))


@dataclass(frozen=True)
class Atmosphere:
    """Cloud opacity, shadow and haze of a scene on a coarse grid and, enlarged, on finer ones."""

    cloud: NDArray[np.float32]
    shadow: NDArray[np.float32]
    haze: NDArray[np.float32]
    cirrus: NDArray[np.float32]

    def enlarge(self, factor: float, shape: tuple[int, int]) -> Atmosphere:
        return Atmosphere(*(upsample(f, factor, shape) for f in (self.cloud, self.shadow, self.haze, self.cirrus)))


def atmosphere_over(world: World, grid: Grid, sky: Sky, sun: Sun, time_ms: int) -> Atmosphere:
    """The atmosphere over a coarse grid; shadows lie away from the sun by the height of the cloud base."""
    x, y = grid.plane(world)
    reach = sky.base_m / np.tan(np.deg2rad(max(sun.elevation_deg, 14.0)))
    azimuth = np.deg2rad(sun.azimuth_deg)
    cloud = sky.sample("opacity", x, y)
    shadow = sky.sample("opacity", x + reach * np.sin(azimuth), y + reach * np.cos(azimuth))
    return Atmosphere(cloud, shadow, sky.sample("haze", x, y), sky.sample("cirrus", x, y))


# Brightness of thick cloud, weight and colour of haze, by Sentinel-2 band.
CLOUD = np.array([0.66, 0.64, 0.62, 0.61, 0.61, 0.60, 0.60, 0.60, 0.59, 0.50, 0.06, 0.42, 0.33], np.float32)
HAZE_WEIGHT = np.array([1.25, 1.1, 0.9, 0.75, 0.68, 0.6, 0.55, 0.5, 0.48, 0.45, 0.0, 0.22, 0.15], np.float32)
HAZE_COLOUR = np.array([0.24, 0.24, 0.25, 0.26, 0.27, 0.28, 0.28, 0.29, 0.29, 0.29, 0.0, 0.26, 0.24], np.float32)


def through(image: NDArray[np.float32], air: Atmosphere, band: int) -> NDArray[np.float32]:
    """The image of a band as seen through the atmosphere."""
    haze = np.minimum(air.haze * HAZE_WEIGHT[band] + (0.45 * air.cirrus if band != 10 else 0), 0.9)
    shadow_depth = np.float32(0.50 if GROUP[band] == 0 else 0.62)  # skylight is blue
    out = image * (1 - shadow_depth * air.shadow)
    out *= 1 - haze
    out += haze * HAZE_COLOUR[band]
    out += air.cloud * (CLOUD[band] * (0.75 + 0.25 * air.cloud) - out)
    if band == 10:
        out += 0.05 * air.cirrus
    return out


def displaced(image: NDArray[np.float32], dx_px: float, dy_px: float) -> NDArray[np.float32]:
    """The image moved by a fraction of a pixel, bilinear, edges repeated: misregistration and a little blur."""
    padded = np.pad(image, 1, mode="edge")
    for axis, shift in ((0, dy_px), (1, dx_px)):
        weight = np.float32(abs(shift))
        other = np.roll(padded, 1 if shift > 0 else -1, axis=axis)
        padded = padded * (1 - weight) + other * weight
    return padded[1:-1, 1:-1]


class NoiseBank:
    """Unit normal noise cut at random places from one drawn sheet; drawing it anew for each band would cost more.

    Args:
        key: identity of the scene; fixes the cuts.
        seed: of the world.
    """

    def __init__(self, seed: int, *key: object) -> None:
        self._rng = generator(seed, "noise-bank", *key)
        self._sheet: NDArray[np.float32] | None = None

    def cut(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        need = (shape[0] + 97, shape[1] + 101)
        if self._sheet is None or self._sheet.shape[0] < need[0] or self._sheet.shape[1] < need[1]:
            self._sheet = self._rng.standard_normal(need, dtype=np.float32)
        row, col = self._rng.integers(0, 97), self._rng.integers(0, 101)
        return self._sheet[row : row + shape[0], col : col + shape[1]]
