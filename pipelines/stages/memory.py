"""How much memory reading takes, and how a group of sites is read in parts so that it stays within the bound.

A part is read as one window, cut into its sites, written and forgotten before the next; parts of one group share the
blocks on their seams, so that smaller parts cost no more bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil

import numpy as np

from pipelines.config import Config
from pipelines.coregister.frames import scaling
from pipelines.coregister.reach import around
from pipelines.grid import RESOLUTION_M, Site, Window
from pipelines.scenes import Scene
from pipelines.sources import Source
from pipelines.sources.base import Kind
from pipelines.stages.survey import Look

MB = 2**20
# Interpreter, Ray and libraries 0.6 GiB, what numba, HTTP and fragments between kept blocks hold 0.25 GiB: measured.
FIXED_BYTES = 850 * MB
# Of the bound, for compressed blocks that the next window shares (pipelines.coregister.engines.blocks).
KEPT_SHARE = 0.125
# A block, the frames that it is stacked from and the crops that these come from, as they overlap in time: measured.
SLACK = 2.55
# A window within one block of an archive's files (512 px mostly) costs the same bytes as a site in it.
SMALL_PX, SPARSE = 512, 4


def window_of(sites: Sequence[Site]) -> Window:
    """The smallest window that holds all sites."""
    return hull_of([site.window for site in sites])


def hull_of(windows: Sequence[Window]) -> Window:
    """The smallest window that holds others of its zone."""
    west, south, east, north = zip(*(window.bounds_m for window in windows), strict=True)
    width, height = max(east) - min(west), max(north) - min(south)
    return Window(windows[0].epsg, min(west), max(north), width // RESOLUTION_M, height // RESOLUTION_M)


def pixel_bytes(source: Source, frames: float) -> float:
    """Decoded bytes of a pixel: values of every band and a byte of weight, of every frame."""
    if source.kind not in (Kind.FRAMES, Kind.STATIC, Kind.CLASSES):
        return 0.0
    return frames * (len(source.bands) * np.dtype(source.dtype).itemsize + 1)


def decoded_bytes(scenes: Mapping[str, Iterable[Scene]], window: Window, sources: Mapping[str, Source]) -> float:
    """Bytes of everything that a window's scenes hold there, once decoded."""
    outline, px = around(window), window.width_px * window.height_px
    total = 0.0
    for name, found in scenes.items():
        source = sources[name]
        near = (scene for scene in found if scene.footprint is None or scene.footprint.intersects(outline))
        # Pieces of an acquisition that are scaled unlike are layers of their own.
        layers = sum(len({scaling(piece, source) for piece in pieces}) for pieces in source.acquisitions(near))
        total += px * pixel_bytes(source, layers)
    return total


def kept_bytes(memory_mb: int) -> int:
    """For compressed blocks, of the memory of a worker."""
    return int(memory_mb * MB * KEPT_SHARE)


def block_budget(memory_mb: int) -> float:
    """Decoded bytes that may be held at once under a bound; never less than an eighth of it."""
    return max((memory_mb * MB - kept_bytes(memory_mb) - FIXED_BYTES) / SLACK, memory_mb * MB / 8)


def peak_mb(decoded: float, memory_mb: int) -> int:
    """What a worker takes with so many decoded bytes at once: more than the bound where they exceed the budget."""
    return ceil((FIXED_BYTES + kept_bytes(memory_mb) + SLACK * decoded) / MB - 1e-6)


def needed_mb(decoded: float) -> int:
    """The least bound that holds with so many decoded bytes at once."""
    return ceil((FIXED_BYTES + SLACK * decoded) / (1 - KEPT_SHARE) / MB)


def memory_lines(config: Config, sites: Sequence[Site], looks: Mapping[str, Look], largest: Window) -> list[str]:
    """What reading will take, in words.

    Args:
        config: says the bound and the number of workers.
        sites: planned.
        looks: of the plan.
        largest: window that is read at once if it fits.
    """
    memory_mb, workers = config.ingest.memory_mb, config.ingest.workers
    pixel = planned_pixel_bytes(config, looks)
    block = pixel * pixels(largest)
    at_once = max(min(block, block_budget(memory_mb)), pixel * max(pixels(site.window) for site in sites))
    peak = max(peak_mb(at_once, memory_mb), memory_mb)
    within = peak == memory_mb
    bound = f"stays below {peak}" if within else f"may take {peak} MB, more than the {memory_mb}"
    together = f"{'below' if within else 'up to'} {workers * peak / 1024:.1f} GB"
    told = (
        f"memory: the largest read holds {block / MB:.0f} MB decoded, {at_once / MB:.0f} MB of it at once; a worker "
        f"{bound} MB (ingest.memory_mb), {workers} of them {together}"
    )
    too_large = large_site(config, sites, looks)
    return [told] if too_large is None else [told, f"memory: {too_large}"]


def large_site(config: Config, sites: Iterable[Site], looks: Mapping[str, Look]) -> str | None:
    """What to do where one site, which is never split, takes more than the memory of a worker; None where none does."""
    largest = max((site.window for site in sites), key=pixels)
    decoded, memory_mb = planned_pixel_bytes(config, looks) * pixels(largest), config.ingest.memory_mb
    if (peak := peak_mb(decoded, memory_mb)) <= memory_mb:
        return None
    return (
        f"a site of {largest.width_px} x {largest.height_px} px is {decoded / MB:.0f} MB decoded and never split: a "
        f"worker may take {peak} MB, more than ingest.memory_mb ({memory_mb}); lower plan.site_px "
        f"({config.plan.site_px}) or raise ingest.memory_mb to {needed_mb(decoded)}"
    )


def planned_pixel_bytes(config: Config, looks: Mapping[str, Look]) -> float:
    """Decoded bytes of a pixel in all frames that the plan found, of every source."""
    return sum(pixel_bytes(config.source(name), look.frames) for name, look in looks.items())


def pixels(window: Window) -> int:
    """How many a window has."""
    return window.width_px * window.height_px


def sparse(sites: Sequence[Site]) -> bool:
    """Whether sites are so far apart that reading their common window reads mostly what none of them needs."""
    return scattered([site.window for site in sites])


def scattered(windows: Sequence[Window]) -> bool:
    """Whether most of what windows have between them is in none of them."""
    hull = hull_of(windows)
    return max(hull.shape) > SMALL_PX and pixels(hull) > SPARSE * sum(map(pixels, windows))


def parts_of(sites: Sequence[Site], fits: Callable[[Sequence[Site]], bool]) -> list[list[Site]]:
    """Neighbouring sites that can be read at once, as many together as can; a single site is always a part.

    Args:
        sites: of one zone.
        fits: whether the common window of some sites can be read at once.
    """
    if len(sites) == 1 or fits(sites):
        return [list(sites)]
    window = window_of(sites)
    wide = window.width_px >= window.height_px
    west, south, east, north = window.bounds_m
    middle = (west + east) / 2 if wide else (south + north) / 2

    def first_half(site: Site) -> bool:
        left, bottom, right, top = site.window.bounds_m
        return (left + right) / 2 < middle if wide else (bottom + top) / 2 > middle

    halves = [site for site in sites if first_half(site)], [site for site in sites if not first_half(site)]
    if not all(halves):  # sites on top of one another
        halves = list(sites[: len(sites) // 2]), list(sites[len(sites) // 2 :])
    return parts_of(halves[0], fits) + parts_of(halves[1], fits)
