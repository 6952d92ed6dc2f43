"""Checks of the maps that no score shows: collapse, sub-pixel codes, seams, stability over the years."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.config import Config
from pipelines.evaluation.labels import pair_years
from pipelines.evaluation.quality import (
    Check,
    checkerboard_ratio,
    neighbour_check,
    pair_cosine,
    seam_ratio,
    vector_checks,
)
from pipelines.grid import RESOLUTION_M, Tile
from pipelines.stages.pictures import View, embedding_view
from pipelines.stages.planned import Plan
from pipelines.stages.scoring import task_of
from pipelines.stages.truth import parcels, truth_folder
from pipelines.storage import Storage

SEAMLESS = (0.8, 1.25)
MOST_BOARD = 3.0


def quality_checks(config: Config, points: pd.DataFrame, vectors: NDArray[np.float32]) -> list[Check]:
    """Collapse, sub-pixel codes, stability over the years, seams."""
    known = np.isfinite(vectors).all(axis=1)
    checks = list(vector_checks(vectors[known], points["site"].to_numpy()[known]))
    assert config.evaluate is not None
    storage = Storage(config.root)
    period = config.support_periods[-1]
    tiles = Plan.load(config).tiles()
    seams, boards, truths = [], [], []
    for view in _fine_views(tiles):
        image = embedding_view(storage, view, period.label)
        if np.isfinite(image).all(axis=-1).mean() > 0.5:
            boards.append(checkerboard_ratio(image))
            inner = view.window.height_px // 2
            try:
                seams.append(seam_ratio(image, [inner], [inner]))
            except ValueError:
                continue
        parts = parcels(config, view, period.label)
        if parts is not None:
            truths.append((image, parts))
    if seams:
        middle = float(np.median(seams))
        checks.append(
            Check(
                "seam ratio at tile corners",
                middle,
                "{:.2f} to {:.2f}".format(*SEAMLESS),
                SEAMLESS[0] <= middle <= SEAMLESS[1],
            )
        )
    if boards:
        board = float(np.median(boards))
        checks.append(
            Check(
                "power at the Nyquist frequency over its neighbours",
                board,
                f"below {MOST_BOARD:g}; about 1 without a pattern",
                board < MOST_BOARD,
            )
        )
    if truths:
        image = np.concatenate([one for one, _ in truths])
        offsets = np.cumsum([0, *(parts.max() for _, parts in truths[:-1])])
        numbered = np.concatenate(
            [np.where(parts > 0, parts + offset, 0) for (_, parts), offset in zip(truths, offsets, strict=True)]
        )
        checks += neighbour_check(image, numbered)
    if len(config.periods) > 1 and truth_folder(config) is not None:
        change_tasks = [part for part in config.evaluate.tasks if part.kind == "change"]
        if change_tasks:
            pairs = pair_years(points, task_of(change_tasks[0]))
            stable = (pairs["label"] == "stable").to_numpy()
            value = pair_cosine(vectors[pairs["before"]], vectors[pairs["after"]], stable)
            moved = pair_cosine(vectors[pairs["before"]], vectors[pairs["after"]], ~stable)
            checks.append(
                Check(
                    "year-to-year cosine, stable points",
                    value,
                    f"above {moved:.3f}, that of changed points",
                    value > moved,
                )
            )
            checks.append(Check("year-to-year cosine, changed points", moved, "no bound of its own"))
    return checks


def _fine_views(tiles: list[Tile], most: int = 12) -> list[View]:
    """Full-resolution squares around corners where four tiles meet."""
    views = []
    for tile in tiles:
        window = tile.window
        size = min(window.width_px, 256)
        half = size // 2 * RESOLUTION_M
        corner = type(window)(
            window.epsg, window.bounds_m[2] - half, window.bounds_m[1] + half, size, size, RESOLUTION_M
        )
        near = tuple(
            t for t in tiles if t.window.epsg == window.epsg and t.window.polygon().intersects(corner.polygon())
        )
        if len(near) == 4:
            views.append(View(tile.tile_id, corner, near))
    return views[:most]
