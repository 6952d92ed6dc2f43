"""From cover to reflectance: endmember spectra of 13 bands mixed per parcel and day.

The endmembers are rounded, typical surface reflectances in the bands of Sentinel-2; parcels scatter around them so that
classes overlap. Everything is per parcel: images come from gathering these small tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.legend import CLASSES, CODE
from pipelines.sandbox.phenology import cover_of
from pipelines.sandbox.world import World

BANDS: tuple[str, ...] = (
    "coastal",
    "blue",
    "green",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "nir",
    "nir08",
    "nir09",
    "cirrus",
    "swir16",
    "swir22",
)
# 0 visible, 1 near infrared, 2 shortwave: which texture and which parcel factor a band follows.
GROUP = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2])

_GREEN = {
    "crop": (0.020, 0.025, 0.055, 0.031, 0.090, 0.31, 0.41, 0.44, 0.46, 0.45, 0.002, 0.200, 0.095),
    "grass": (0.021, 0.027, 0.058, 0.036, 0.095, 0.28, 0.36, 0.39, 0.41, 0.40, 0.002, 0.210, 0.105),
    "leaf": (0.018, 0.022, 0.046, 0.027, 0.076, 0.26, 0.34, 0.37, 0.39, 0.38, 0.002, 0.165, 0.075),
    "needle": (0.015, 0.018, 0.031, 0.021, 0.052, 0.15, 0.195, 0.21, 0.225, 0.22, 0.002, 0.095, 0.045),
    "heath": (0.022, 0.028, 0.050, 0.038, 0.082, 0.20, 0.26, 0.285, 0.30, 0.29, 0.002, 0.180, 0.095),
}
_GREEN_OF = {
    "broadleaf_forest": "leaf",
    "conifer_forest": "needle",
    "grassland": "grass",
    "alfalfa": "grass",
    "shrub": "heath",
    "wetland": "grass",
    "orchard": "leaf",
    "built_up": "leaf",
    "bare": "grass",
}
_DRY = (0.055, 0.075, 0.115, 0.155, 0.195, 0.23, 0.25, 0.275, 0.29, 0.30, 0.003, 0.320, 0.220)
_FLOWER = (0.035, 0.045, 0.180, 0.150, 0.230, 0.38, 0.46, 0.48, 0.49, 0.48, 0.002, 0.220, 0.110)
_SOIL = (0.055, 0.072, 0.102, 0.138, 0.168, 0.19, 0.205, 0.222, 0.238, 0.245, 0.003, 0.295, 0.245)
_ROCK = (0.085, 0.105, 0.140, 0.178, 0.200, 0.215, 0.228, 0.240, 0.252, 0.255, 0.004, 0.300, 0.265)
_ROOF = (0.105, 0.120, 0.145, 0.175, 0.190, 0.200, 0.210, 0.220, 0.230, 0.235, 0.004, 0.255, 0.230)
_ROAD = (0.078, 0.085, 0.098, 0.108, 0.115, 0.12, 0.125, 0.130, 0.136, 0.140, 0.003, 0.150, 0.140)
_LITTER = (0.035, 0.045, 0.065, 0.085, 0.115, 0.14, 0.155, 0.175, 0.190, 0.195, 0.002, 0.220, 0.150)
_WATER = (0.050, 0.048, 0.046, 0.032, 0.026, 0.020, 0.019, 0.017, 0.014, 0.011, 0.001, 0.007, 0.004)

# Variation between pixels of one parcel: brightness, greenness.
_TEXTURE = {
    "water": (0.03, 0.0),
    "built_up": (0.24, 0.20),
    "bare": (0.10, 0.06),
    "broadleaf_forest": (0.075, 0.03),
    "conifer_forest": (0.10, 0.03),
    "grassland": (0.045, 0.06),
    "shrub": (0.09, 0.08),
    "wetland": (0.09, 0.09),
    "orchard": (0.09, 0.07),
}
_ROWS = 0.10


@dataclass(frozen=True)
class ParcelState:
    """What the parcels are on one day.

    Attributes:
        classes: ``(n,)`` finest codes.
        cover: ``(n, 3)`` green, dry, flowering.
        height_m: ``(n,)``.
        texture: ``(n, 3)`` amplitudes of brightness, greenness and rows.
        season: ``(n,)`` season column in force.
    """

    classes: NDArray[np.uint8]
    cover: NDArray[np.float32]
    height_m: NDArray[np.float32]
    texture: NDArray[np.float32]
    season: NDArray[np.int64]


def parcel_state(world: World, year_index: int, day_of_year: float) -> ParcelState:
    """The state of every parcel on a day of a year."""
    parcels = world.parcels
    rows = np.arange(len(parcels))
    turned = day_of_year >= parcels.switch_day[:, year_index]
    season = year_index + turned.astype(np.int64)
    classes = parcels.classes[rows, season]
    day = day_of_year - 365.0 * turned - parcels.delay_days[rows, season]
    cover = cover_of(
        classes,
        day.astype(np.float32),
        parcels.mown[rows, season],
        parcels.cut_phase[rows, season],
        parcels.catch_crop[rows, season],
    )
    cover[:, 0] *= parcels.vigour[rows, season]
    height = parcels.height_m[rows, season]
    default = (0.045, 0.05)
    texture = np.array([(*_TEXTURE.get(name, default), _ROWS) for name in CLASSES], np.float32)[classes]
    forest = np.isin(classes, [CODE["broadleaf_forest"], CODE["conifer_forest"]])
    texture[:, 0] *= np.where(forest, 0.7 + 0.022 * height, 1)
    texture[:, 2] *= parcels.rows
    return ParcelState(classes, cover.astype(np.float32), height, texture, season)


def reflectance(world: World, state: ParcelState, soil_moisture: float) -> NDArray[np.float32]:
    """``(n, 13)`` surface reflectance of the parcels."""
    parcels, classes = world.parcels, state.classes
    green = np.array([_GREEN[_GREEN_OF.get(name, "crop")] for name in CLASSES], np.float32)[classes]
    background = _background(world, classes)
    wet = np.clip(0.55 * soil_moisture + 0.45 * parcels.wetness, 0, 1)
    land = classes != CODE["water"]
    background *= np.where(land, np.exp(parcels.spectral[:, 3]) * (1 - 0.38 * wet), 1)[:, None]
    factor = np.exp(parcels.spectral[:, :3])[:, GROUP]
    tall = np.clip(state.height_m / 30, 0, 1)[:, None]
    # Taller stands cast more shadow into their own crowns: darker, most of all in the near infrared.
    shade = 1 - tall * np.array([0.16, 0.30, 0.26], np.float32)[GROUP]
    g, d, f = (state.cover[:, k : k + 1] for k in range(3))
    bare = np.clip(1 - g - d - f, 0, 1)
    plants = g * green * factor + (d * np.array(_DRY, np.float32) + f * np.array(_FLOWER, np.float32)) * factor**0.5
    return np.where(land[:, None], (plants + bare * background) * shade, background).astype(np.float32)


def _background(world: World, classes: NDArray) -> NDArray[np.float32]:
    """What lies under the plants, ``(n, 13)``: soil, rock, town, litter or water, mixed differently in each parcel."""
    parcels = world.parcels
    mix = (np.sin(parcels.row_angle * 37.0) * 0.5 + 0.5).astype(np.float32)[:, None]
    soil, rock, litter, water = (np.array(s, np.float32) for s in (_SOIL, _ROCK, _LITTER, _WATER))
    out = np.repeat(soil[None], len(classes), 0)
    for name, spectrum in (
        ("bare", soil * (1 - mix) + rock * mix),
        ("built_up", np.array(_ROOF, np.float32) * mix + np.array(_ROAD, np.float32) * (1 - mix)),
        ("broadleaf_forest", np.broadcast_to(litter, out.shape)),
        ("conifer_forest", np.broadcast_to(litter, out.shape)),
        ("shrub", litter * 0.5 + soil * 0.5 + 0 * mix),
        ("wetland", water * (0.35 + 0.4 * mix) + litter * (0.65 - 0.4 * mix)),
        ("water", water * (0.7 + 1.1 * mix) + soil * 0.10 * mix),
    ):
        mask = classes == CODE[name]
        out[mask] = spectrum[mask]
    return out
