"""Groups of neighbouring sites, which share their reads, and the order in which neighbours follow one another.

Blocks of files, which are read whole, reach beyond a group: whoever reads the next one should be the same worker, or
one of the same node (:mod:`pipelines.coregister.engines.scratch`), and soon.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from pipelines.config import Config
from pipelines.grid import RESOLUTION_M, Period, Site, Window
from pipelines.stages.memory import SMALL_PX, hull_of, pixels, scattered, sparse, window_of

T = TypeVar("T")
# Of work a worker: enough that none waits long for another at the end.
STRETCHES = 8
# Of 512 px: 8192 px, whose blocks of 1024 px are 1.3 times what it needs.
LONGEST_STRETCH = 256


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

    @property
    def shares_blocks(self) -> bool:
        """Whether its sites lie so close together that blocks of files which reach beyond it are wanted there too."""
        return not sparse(self.sites) and max(self.window.shape) >= SMALL_PX


def cell_of(window: Window, side_px: int) -> tuple[int, int]:
    """Column and row, on a grid of such squares, of the one that holds a window's upper left corner."""
    side_m = side_px * RESOLUTION_M
    return window.left_m // side_m, window.top_m // side_m


def along_curve(column: int, row: int) -> int:
    """Position of a cell on the Z-order curve (Morton 1966): near on the curve is near on the ground."""
    bits = range(max(column.bit_length(), row.bit_length()))
    return sum((column >> bit & 1) << 2 * bit | (row >> bit & 1) << 2 * bit + 1 for bit in bits)


def stretches(work: Sequence[T], workers: int) -> list[list[T]]:
    """Consecutive work cut into stretches, each for one worker.

    They are long for the sake of what neighbours share, and several a worker for the sake of balance.
    """
    length = min(max(len(work) // (STRETCHES * workers), 1), LONGEST_STRETCH)
    return [list(work[start : start + length]) for start in range(0, len(work), length)]


def reads_of(windows: Sequence[Window], workers: int) -> list[Window]:
    """What windows that are read one after another take together, as fewer and larger ones.

    Those of a stretch count as one, for they share the blocks on their seams, unless they are scattered.
    """
    reads = []
    for stretch in stretches(windows, workers):
        for _, zone in groupby(stretch, key=lambda window: window.epsg):
            neighbours = list(zone)
            reads += neighbours if scattered(neighbours) else [hull_of(neighbours)]
    return reads


def groups_of(sites: list[Site], periods: list[Period], block_px: int) -> list[SiteGroup]:
    """Sites grouped by zone, split and square of the grid, in every period that they were drawn in.

    Neighbours in one period follow one another.
    """
    groups: dict[tuple[int, str, int, int], list[Site]] = defaultdict(list)
    for site in sites:
        groups[site.window.epsg, site.split, *cell_of(site.window, block_px)].append(site)
    order = sorted(groups, key=lambda key: (*key[:2], along_curve(*key[2:])))
    return [
        SiteGroup(f"{epsg}_{col}_{row}_{split}_{period.label}", drawn, period)
        for period in periods
        for epsg, split, col, row in order
        if (drawn := tuple(sorted(site for site in groups[epsg, split, col, row] if site.is_drawn_in(period))))
    ]


def reads_of_groups(groups: Sequence[SiteGroup], workers: int) -> list[Window]:
    """What reading groups takes: those that share blocks together, scattered sites one by one."""
    reads = []
    for _, of_period in groupby(groups, key=lambda group: group.period):
        listed = list(of_period)
        reads += reads_of([group.window for group in listed if group.shares_blocks], workers)
        for group in listed:
            if sparse(group.sites):
                reads += [site.window for site in group.sites]
            elif not group.shares_blocks:
                reads.append(group.window)
    return reads


def largest_window(config: Config, sites: list[Site]) -> Window:
    """Of the groups of all sites, the one that takes most to read."""
    groups = groups_of(sites, config.support_periods, config.ingest.block_px)
    return max((group.window for group in groups), key=pixels)
