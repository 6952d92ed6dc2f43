"""ESA WorldCover (10 m, 2020 and 2021, global): an optional target."""

from __future__ import annotations

from pipelines.sources.landcover import WORLDCOVER, class_map

SOURCE = class_map("worldcover", WORLDCOVER)
