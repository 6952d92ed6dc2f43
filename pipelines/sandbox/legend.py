"""The classes of the synthetic Earth and how finer ones fold into coarser ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES: tuple[str, ...] = (
    "water",
    "built_up",
    "bare",
    "broadleaf_forest",
    "conifer_forest",
    "grassland",
    "shrub",
    "wetland",
    "orchard",
    "winter_wheat",
    "winter_barley",
    "maize",
    "sunflower",
    "rapeseed",
    "sugar_beet",
    "alfalfa",
)
CODE: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}
FIRST_CROP = CODE["winter_wheat"]
CROPS: tuple[str, ...] = CLASSES[FIRST_CROP:]
LAND_COVER: tuple[str, ...] = (*CLASSES[:FIRST_CROP], "annual_crop")

# Share of the parcels; crops within the crop share.
SHARES: dict[str, float] = {
    "water": 0.04,
    "built_up": 0.075,
    "bare": 0.045,
    "broadleaf_forest": 0.105,
    "conifer_forest": 0.095,
    "grassland": 0.115,
    "shrub": 0.06,
    "wetland": 0.045,
    "orchard": 0.06,
    "crop": 0.36,
}
CROP_SHARES: dict[str, float] = {
    "winter_wheat": 0.21,
    "winter_barley": 0.15,
    "maize": 0.18,
    "sunflower": 0.12,
    "rapeseed": 0.13,
    "sugar_beet": 0.10,
    "alfalfa": 0.11,
}

# The public annual map is coarser: code -> name, 0 is unmapped.
MAP_CLASSES: dict[int, str] = {
    1: "water",
    2: "trees",
    3: "grass",
    4: "flooded_vegetation",
    5: "crops",
    6: "shrub",
    7: "built_up",
    8: "bare",
}
_TO_MAP = {
    "water": 1,
    "built_up": 7,
    "bare": 8,
    "broadleaf_forest": 2,
    "conifer_forest": 2,
    "grassland": 3,
    "shrub": 6,
    "wetland": 4,
    "orchard": 2,
}


def to_land_cover(class16: NDArray) -> NDArray[np.uint8]:
    """Finest codes to land-cover codes: every crop is ``annual_crop``."""
    return np.minimum(class16, FIRST_CROP).astype(np.uint8)


def to_map(class16: NDArray) -> NDArray[np.uint8]:
    """Finest codes to the codes of the public map."""
    table = np.array([_TO_MAP.get(name, 5) for name in CLASSES], dtype=np.uint8)
    return table[class16]
