"""Days: temperature, rain, soil moisture, clouds. One weather drives the climate data, the clouds and the wet soils."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.optimize import brentq
from scipy.special import expit, ndtri

from pipelines.sandbox.noise import NoiseField, generator
from pipelines.sandbox.parameters import WorldParameters

DAY_MS = 86_400_000
_CLOUD_STEP_M = 60.0
_SHADED = 0.09  # share of the ground that is in shadow or under an edge that the cloud mask calls cloud


@dataclass(frozen=True)
class Weather:
    """Daily series over the region from 1 January of the first year, one value a day.

    Attributes:
        start_ms: of day 0.
        cloudiness: 0 (clear) to 1 (overcast): expected share of the sky covered.
        temperature_k: daily mean at sea level.
        rain_m: daily sum.
        dewpoint_gap_k: temperature less dew point.
        pressure_pa: at sea level.
        soil_moisture: 0 to 1.
    """

    start_ms: int
    cloudiness: NDArray[np.float32]
    temperature_k: NDArray[np.float32]
    rain_m: NDArray[np.float32]
    dewpoint_gap_k: NDArray[np.float32]
    pressure_pa: NDArray[np.float32]
    soil_moisture: NDArray[np.float32]

    def day(self, time_ms: int) -> int:
        return (time_ms - self.start_ms) // DAY_MS


@lru_cache(maxsize=4)
def weather_of(p: WorldParameters) -> Weather:
    """The weather of a world."""
    rng = generator(p.seed, "weather")
    start = datetime(p.years[0], 1, 1, tzinfo=UTC)
    n = (datetime(p.years[-1] + 1, 1, 1, tzinfo=UTC) - start).days
    day = np.arange(n)
    unrest = _red_noise(rng, n, 0.45)
    # U-shaped: half the days are nearly clear or nearly overcast. The mean follows the parameter and the season.
    season = 0.12 * np.cos(2 * np.pi * (day - 20) / 365.25)
    cloudiness = _cover(2.4 * unrest + 2.5 * season, 1 - p.clear_fraction - _SHADED)
    warm = 10.0 - 9.3 * np.cos(2 * np.pi * (day - 22) / 365.25) + 3.2 * _red_noise(rng, n, 0.75)
    wet = (cloudiness > 0.62) & (rng.random(n) < 0.75)
    rain = np.where(wet, rng.gamma(0.8, 0.006, n) * cloudiness, 0)
    moisture = np.zeros(n)
    level = 0.6
    for k in range(n):
        drying = 0.035 + 0.0022 * max(warm[k], 0)
        level = min(1.0, level * (1 - drying) + rain[k] * 22)
        moisture[k] = level
    gap = np.clip(7.5 - 5.5 * cloudiness + rng.normal(0, 0.8, n), 0.4, None)
    pressure = 101_500 - 900 * unrest + rng.normal(0, 150, n)
    return Weather(
        int(start.timestamp() * 1000),
        cloudiness.astype(np.float32),
        (273.15 + warm).astype(np.float32),
        rain.astype(np.float32),
        gap.astype(np.float32),
        pressure.astype(np.float32),
        moisture.astype(np.float32),
    )


def _cover(score: NDArray[np.float64], mean: float) -> NDArray[np.float64]:
    # The logistic of the score, shifted so that its mean is as asked.
    shift = brentq(lambda b: float(np.mean(expit(score + b))) - mean, -20, 20)
    return expit(score + shift)


def _red_noise(rng: np.random.Generator, n: int, memory: float) -> NDArray[np.float64]:
    noise, out, last = rng.normal(0, np.sqrt(1 - memory**2), n), np.empty(n), rng.normal()
    for k in range(n):
        last = memory * last + noise[k]
        out[k] = last
    return out


@dataclass(frozen=True)
class Sky:
    """Clouds at one moment, on a coarse raster of the world plane.

    Attributes:
        left_m, top_m: corner of the raster, step 60 m.
        opacity: ``(h, w)`` 0 to 1, of the clouds.
        haze: ``(h, w)`` 0 to 1, thin and smooth.
        cirrus: ``(h, w)`` 0 to 1, thin and high.
        base_m: height of the cloud base above ground.
    """

    left_m: float
    top_m: float
    opacity: NDArray[np.float32]
    haze: NDArray[np.float32]
    cirrus: NDArray[np.float32]
    base_m: float

    def sample(self, layer: str, x: NDArray, y: NDArray) -> NDArray[np.float32]:
        """A layer at plane points, bilinear."""
        raster = getattr(self, layer)
        rows, cols = (self.top_m - y) / _CLOUD_STEP_M - 0.5, (x - self.left_m) / _CLOUD_STEP_M - 0.5
        return map_coordinates(raster, [rows, cols], order=1, mode="nearest", output=np.float32)


def sky_at(p: WorldParameters, time_ms: int) -> Sky:
    """The sky over the region at a moment; clouds of one day drift with the wind of that day."""
    weather = weather_of(p)
    day = weather.day(time_ms)
    rng = generator(p.seed, "sky", day)
    cover = float(weather.cloudiness[day])
    wind = rng.normal(0, 7, 2)  # m/s
    hours_s = ((time_ms - weather.start_ms) % DAY_MS) / 1000
    margin = 3_500.0
    width, height = p.width_m + 2 * margin, p.height_m + 2 * margin
    columns, rows = int(width / _CLOUD_STEP_M), int(height / _CLOUD_STEP_M)
    x = (np.arange(columns) + 0.5) * _CLOUD_STEP_M - width / 2
    y = height / 2 - (np.arange(rows) + 0.5) * _CLOUD_STEP_M
    grid_x, grid_y = np.meshgrid(x - wind[0] * hours_s, y - wind[1] * hours_s)
    puff = float(rng.uniform(900, 3200))
    shape = NoiseField(p.seed, ("cloud", day), puff, 5, gain=0.55)(grid_x, grid_y)
    broad = NoiseField(p.seed, ("front", day), 16_000, 2)(grid_x, grid_y)
    field = 0.75 * shape + 0.55 * broad
    # The threshold that a unit normal exceeds in `cover` of the area; overcast and clear days stay so everywhere.
    threshold = np.float32(_normal_quantile(1 - cover) * 1.15)
    opacity = np.clip((field - threshold) / 0.55, 0, 1)
    opacity = gaussian_filter(np.where(cover < 0.03, 0, opacity), 0.6).astype(np.float32)
    haze_level = 0.02 + 0.10 * rng.beta(1.2, 4) + (0.18 * rng.random() if rng.random() < 0.2 else 0)
    haze = np.clip(haze_level * (1 + 0.5 * broad), 0, 0.5).astype(np.float32)
    thin = NoiseField(p.seed, ("cirrus", day), 5_000, 4, gain=0.6)(grid_x * 0.4 + grid_y * 0.2, grid_y)
    strength = 0.35 * rng.random() if rng.random() < 0.3 else 0.0
    cirrus = np.clip(strength * (0.4 + 0.6 * thin), 0, 0.4).astype(np.float32)
    return Sky(-width / 2, height / 2, opacity, haze, cirrus, float(rng.uniform(500, 2200)))


def _normal_quantile(q: float) -> float:
    return float(np.clip(ndtri(q), -3.5, 3.5))
