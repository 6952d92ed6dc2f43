"""Open water by a map of classes: what the paper leaves out of training (SPEC section 4)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from pipelines.sequence import Sequence
from pipelines.sources.base import Kind, Source

WATER = re.compile(r"\bwater\b", re.IGNORECASE)
LEAST_KNOWN = 0.5


def is_open_water(sequence: Sequence, sources: Mapping[str, Source]) -> bool:
    """Whether any map of classes knows half of a sequence's pixels or more, and calls every one of them water.

    Classes count as water by their names: "open water", "permanent water", "water".
    """
    for name, raster in sequence.rasters.items():
        source = sources[name]
        if source.kind is not Kind.CLASSES:
            continue
        water = [code for code, label in zip(source.classes, source.class_names, strict=True) if WATER.search(label)]
        known = raster.values != raster.nodata
        if known.mean() >= LEAST_KNOWN and np.isin(raster.values[known], water).all():
            return True
    return False
