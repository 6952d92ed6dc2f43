"""National Land Cover Database (30 m, conterminous United States): an optional target, the nearest mapped year."""

from __future__ import annotations

from pipelines.sources.landcover import class_map

# NLCD 2021 legend of the conterminous states: the 16 classes of SPEC 1.2.
LEGEND = {
    11: "open water",
    12: "perennial ice and snow",
    21: "developed, open space",
    22: "developed, low intensity",
    23: "developed, medium intensity",
    24: "developed, high intensity",
    31: "barren land",
    41: "deciduous forest",
    42: "evergreen forest",
    43: "mixed forest",
    52: "shrub and scrub",
    71: "grassland and herbaceous",
    81: "pasture and hay",
    82: "cultivated crops",
    90: "woody wetlands",
    95: "emergent herbaceous wetlands",
}

SOURCE = class_map("nlcd", LEGEND)
