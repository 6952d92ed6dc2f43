"""Groups of neighbouring sites, which share their reads."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from pipelines.config import Config
from pipelines.grid import RESOLUTION_M, Period, Site, Window
from pipelines.stages.memory import pixels, window_of


@dataclass(frozen=True)
class SiteGroup:
    """Neighbouring sites of one split and one period: the unit of reading, of retrying and of resuming."""

    group_id: str
    sites: tuple[Site, ...]
    period: Period

    @property
    def window(self) -> Window:
        """The smallest window that holds all sites."""
        return window_of(self.sites)


def groups_of(sites: list[Site], periods: list[Period], block_px: int) -> list[SiteGroup]:
    """Sites grouped by zone, split and square of the grid, in every period that they were drawn in."""
    side_m = block_px * RESOLUTION_M
    groups: dict[tuple[int, str, int, int], list[Site]] = defaultdict(list)
    for site in sites:
        window = site.window
        groups[window.epsg, site.split, window.left_m // side_m, window.top_m // side_m].append(site)
    return [
        SiteGroup(f"{epsg}_{col}_{row}_{split}_{period.label}", drawn, period)
        for (epsg, split, col, row), group in sorted(groups.items())
        for period in periods
        if (drawn := tuple(sorted(site for site in group if site.is_drawn_in(period))))
    ]


def largest_window(config: Config, sites: list[Site]) -> Window:
    """Of the groups of all sites, the one that takes most to read."""
    groups = groups_of(sites, config.support_periods, config.ingest.block_px)
    return max((group.window for group in groups), key=pixels)
