"""When each class is green, dry or in flower: cover fractions by day of the season.

Day 0 is 1 January of the harvest year; winter crops start with negative days. Curves are double logistic with a stubble
phase, shaped after the seasonal courses usually drawn for central Europe. Crops differ mainly in timing: barley runs
18 days ahead of wheat and sunflower 13 days behind maize.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.legend import CLASSES, CODE

FIRST_DAY, LAST_DAY = -200, 520
DAYS = np.arange(FIRST_DAY, LAST_DAY + 1, dtype=np.float32)


def _rise(middle: float, width: float) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-np.clip((DAYS - middle) / width, -40, 40)))


def _winter_cereal(delay: float) -> tuple[NDArray, NDArray, NDArray]:
    autumn = 0.22 * _rise(-55 + delay * 0.5, 9)
    spring = _rise(88 + delay, 10)
    ripe = _rise(174 + delay, 6)
    harvest = _rise(203 + delay, 2)
    green = (autumn + (0.86 - autumn) * spring) * (1 - ripe)
    dry = 0.8 * ripe * (1 - harvest) + 0.42 * harvest * (1 - _rise(236 + delay, 7))
    return green, dry, np.zeros_like(DAYS)


def _summer_crop(delay: float, top: float = 0.84, ripe_at: float = 262, harvest_at: float = 284) -> tuple:
    green = top * _rise(166 + delay, 8) * (1 - _rise(ripe_at + delay, 7))
    ripe = _rise(ripe_at + delay, 7) * _rise(166 + delay, 8)
    harvest = _rise(harvest_at + 0.6 * delay, 3)
    dry = 0.7 * ripe * (1 - harvest) + 0.35 * harvest * (1 - _rise(harvest_at + 45, 10))
    return green, dry, np.zeros_like(DAYS)


def _deciduous(low: float, high: float, start: float, end: float, width: float = 7) -> NDArray[np.float32]:
    return _periodic(low, high, start, end, width)


def _periodic(low: float, high: float, start: float, end: float, width: float) -> NDArray[np.float32]:
    total = np.zeros_like(DAYS)
    for year in (-365, 0, 365):
        total += _rise(start + year, width) * (1 - _rise(end + year, 1.6 * width))
    return low + (high - low) * total


@lru_cache(maxsize=1)
def cover_curves() -> NDArray[np.float32]:
    """``(class, 3, day)``: fraction of green, dry and flowering cover; the rest shows the background."""
    none = np.zeros_like(DAYS)
    wheat, barley = _winter_cereal(0), _winter_cereal(-18)
    maize, sunflower = _summer_crop(0), _summer_crop(13, top=0.80)
    beet_green = 0.87 * _rise(161, 9) * (1 - _rise(301, 3))
    rape_autumn = 0.5 * _rise(-85, 8) * (1 - 0.45 * _rise(-10, 10))
    rape_open = _rise(110, 4) * (1 - _rise(136, 4))
    rape_ripe = _rise(176, 7)
    rape_green = (rape_autumn + (0.85 - rape_autumn) * _rise(80, 9)) * (1 - rape_ripe) * (1 - 0.55 * rape_open)
    rape_dry = 0.7 * rape_ripe * (1 - _rise(199, 2)) + 0.4 * _rise(199, 2) * (1 - _rise(232, 7))
    leaf = _deciduous(0.12, 0.88, 112, 298)
    grass = _periodic(0.45, 0.8, 84, 300, 14)
    curves: dict[str, tuple[NDArray, NDArray, NDArray]] = {
        "water": (none, none, none),
        "built_up": (_deciduous(0.14, 0.30, 108, 298), none + 0.03, none),
        "bare": (_periodic(0.03, 0.13, 100, 250, 15), none + 0.06, none),
        "broadleaf_forest": (leaf, 0.45 * (0.88 - leaf), none),
        "conifer_forest": (_periodic(0.72, 0.84, 120, 300, 12), none + 0.05, none),
        "grassland": (grass, 0.30 * (0.95 - grass) + 0.12 * _rise(195, 12) * (1 - _rise(250, 12)), none),
        "shrub": (_periodic(0.34, 0.60, 108, 295, 13), none + 0.18, none),
        "wetland": (_periodic(0.15, 0.62, 122, 282, 12), 0.35 - 0.4 * _periodic(0, 0.7, 122, 282, 12), none),
        "orchard": (_deciduous(0.30, 0.74, 105, 305, 8), none + 0.08, 0.12 * _rise(98, 3) * (1 - _rise(115, 3))),
        "winter_wheat": wheat,
        "winter_barley": barley,
        "maize": maize,
        "sunflower": (sunflower[0], sunflower[1], 0.12 * _rise(205, 4) * (1 - _rise(228, 4))),
        "rapeseed": (rape_green, rape_dry, 0.62 * rape_open),
        "sugar_beet": (beet_green, none + 0.04, none),
        "alfalfa": (_periodic(0.32, 0.84, 82, 305, 12), none + 0.06, none),
    }
    table = np.stack([np.stack(curves[name]) for name in CLASSES]).astype(np.float32)
    return np.clip(table, 0, 1)


# Last day of the season of an annual crop, after which the next one may be prepared.
SEASON_END: dict[str, float] = {
    "winter_wheat": 262,
    "winter_barley": 252,
    "maize": 296,
    "sunflower": 300,
    "rapeseed": 258,
    "sugar_beet": 308,
    "alfalfa": 330,
}


def cover_of(
    classes: NDArray, day: NDArray, mown: NDArray, cut_phase: NDArray, catch_crop: NDArray
) -> NDArray[np.float32]:
    """Cover fractions of parcels on a day.

    Args:
        classes: ``(n,)`` finest class codes.
        day: ``(n,)`` day of the season less the parcel's own delay.
        mown: ``(n,)`` True where grass is cut for hay.
        cut_phase: ``(n,)`` days by which the cuts of this parcel are ahead.
        catch_crop: ``(n,)`` True where mustard or clover is sown after an early or before a late crop.

    Returns:
        ``(n, 3)`` green, dry, flowering.
    """
    table = cover_curves()
    position = np.clip(day - FIRST_DAY, 0, len(DAYS) - 1.001)
    low = position.astype(np.int64)
    part = (position - low).astype(np.float32)[:, None]
    cover = table[classes, :, low] * (1 - part) + table[classes, :, low + 1] * part
    alfalfa = classes == CODE["alfalfa"]
    hay = (classes == CODE["grassland"]) & mown
    season = (day > 118) & (day < 292)
    for mask, period, depth in ((alfalfa, 38.0, 0.72), (hay, 58.0, 0.55)):
        since = np.mod(day + cut_phase, period)
        left = 1 - depth * np.exp(-since / 11.0)
        cover[:, 0] = np.where(mask & season, cover[:, 0] * left, cover[:, 0])
        cover[:, 1] = np.where(mask & season, cover[:, 1] + 0.3 * (1 - left), cover[:, 1])
    early = np.isin(classes, [CODE["winter_wheat"], CODE["winter_barley"], CODE["rapeseed"]])
    regrown = 0.55 / (1 + np.exp(-(day - 262) / 8))
    cover[:, 0] = np.where(early & catch_crop & (day > 225), np.maximum(cover[:, 0], regrown), cover[:, 0])
    late = np.isin(classes, [CODE["maize"], CODE["sunflower"], CODE["sugar_beet"]])
    wintered = 0.42 / (1 + np.exp((day - 92) / 5))
    cover[:, 0] = np.where(late & catch_crop & (day < 130), np.maximum(cover[:, 0], wintered), cover[:, 0])
    total = cover.sum(axis=1, keepdims=True)
    return cover / np.maximum(total, 1.0)
