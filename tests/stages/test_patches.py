"""Patches: their kept middles cover a tile once, and lie where the pixels are, however the map was cut into tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stages.patches import lay_out

SIDES = st.integers(1, 24).map(lambda cells: 16 * cells)


@settings(max_examples=80, deadline=None)
@given(SIDES, SIDES, st.integers(1, 8).map(lambda cells: 16 * cells), st.sampled_from([0, 16, 32]))
def test_the_middles_cover_the_tile_once_and_come_from_the_right_pixels(height, width, core, margin):
    # What a model that returns each pixel's own position would leave in the tile.
    rows, cols = np.mgrid[-margin : height + margin, -margin : width + margin]
    seen = np.zeros((height, width), int)
    out = np.full((height, width, 2), -1)
    for patch in lay_out(height, width, core + 2 * margin, margin):
        assert patch.height <= core + 2 * margin and patch.width <= core + 2 * margin
        assert not any(size % 16 for size in (patch.row, patch.col, patch.height, patch.width))
        inside = np.s_[patch.row : patch.row + patch.height, patch.col : patch.col + patch.width]
        view = np.stack([rows[inside], cols[inside]], axis=-1)
        assert view.shape == (patch.height, patch.width, 2)
        inner = np.s_[
            patch.inner_row : patch.inner_row + patch.keep_height, patch.inner_col : patch.inner_col + patch.keep_width
        ]
        kept = np.s_[
            patch.keep_row : patch.keep_row + patch.keep_height, patch.keep_col : patch.keep_col + patch.keep_width
        ]
        out[kept] = view[inner]
        seen[kept] += 1
        # Every kept pixel has its margin of context inside the patch.
        assert margin <= patch.inner_row and patch.inner_row + patch.keep_height <= patch.height - margin
        assert margin <= patch.inner_col and patch.inner_col + patch.keep_width <= patch.width - margin
    assert (seen == 1).all()
    assert (out == np.mgrid[:height, :width].transpose(1, 2, 0)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.sampled_from([32, 64, 96]), st.sampled_from([16, 32]))
def test_a_pixel_is_embedded_in_the_same_patch_in_one_tile_or_in_four(down, across, core, margin):
    def contexts(tiles):
        """For every pixel of the map, the absolute bounds of the patch that its embedding comes from."""
        out = np.zeros((2 * down * core, 2 * across * core, 4), int)
        for top, left, height, width in tiles:
            for patch in lay_out(height, width, core + 2 * margin, margin):
                rows = slice(top + patch.keep_row, top + patch.keep_row + patch.keep_height)
                cols = slice(left + patch.keep_col, left + patch.keep_col + patch.keep_width)
                out[rows, cols] = (top + patch.row, left + patch.col, patch.height, patch.width)
        return out

    height, width = down * core, across * core
    whole = contexts([(0, 0, 2 * height, 2 * width)])
    quarters = contexts([(row, col, height, width) for row in (0, height) for col in (0, width)])
    assert (whole == quarters).all()


@pytest.mark.parametrize("sizes", [(100, 96, 96, 16), (96, 90, 96, 16), (96, 96, 90, 16), (96, 96, 96, 8)])
def test_sizes_off_the_models_grid_are_refused(sizes):
    with pytest.raises(ValueError, match="must be a multiple of 16"):
        list(lay_out(*sizes))
