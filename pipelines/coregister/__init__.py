"""Co-registration: scenes of every source on one 10 m UTM grid, in their native numbers.

Knows sources, scenes and the grid; knows nothing of catalogs' APIs, shards or models.
"""

from __future__ import annotations

from pipelines.coregister.cut import cut_points, cut_rasters, cut_texts
from pipelines.coregister.frames import ReadDoubt, ReadFailure
from pipelines.coregister.read import (
    Block,
    empty_node_folder,
    keep_blocks,
    read_block,
    read_frames,
    read_sequence,
    read_window,
    to_dataset,
    to_frames,
)

__all__ = [
    "Block",
    "ReadDoubt",
    "ReadFailure",
    "cut_points",
    "cut_rasters",
    "cut_texts",
    "empty_node_folder",
    "keep_blocks",
    "read_block",
    "read_frames",
    "read_sequence",
    "read_window",
    "to_dataset",
    "to_frames",
]
