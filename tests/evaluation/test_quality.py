import numpy as np
import pytest

from pipelines.evaluation import quality


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_neighbour_cosine_of_a_checkerboard_is_caught():
    angle = np.add.outer(np.arange(16), np.arange(16)) % 2 * (np.pi / 3)  # 60 degrees between neighbours
    board = np.stack([np.cos(angle), np.sin(angle)], -1)
    parcels = np.ones((16, 16), int)
    assert quality.neighbour_cosine(board, parcels, 1) == pytest.approx(0.5)
    assert quality.neighbour_cosine(board, parcels, 2) == pytest.approx(1)
    near, far = quality.neighbour_check(board, parcels)
    assert near.passed is False and far.value == pytest.approx(1)
    assert quality.neighbour_check(np.ones((8, 8, 3)), np.ones((8, 8), int))[0].passed is True


def test_a_pattern_of_every_second_pixel_is_seen_in_the_spectrum():
    rng = np.random.default_rng(1)
    field = rng.normal(size=(65, 64, 8))
    for axis in (0, 1):  # a smooth landscape
        field = sum(np.roll(field, shift, axis) for shift in range(-2, 3))
    field[:5, :5] = np.nan
    assert 0.3 < quality.checkerboard_ratio(field) < 3
    row, col = np.indices((65, 64))
    for pattern in (row % 2, col % 2, (row + col) % 2):
        board = field + 2 * pattern[..., None]
        assert quality.checkerboard_ratio(board) > 10
    slow = field + 2 * (row // 2 % 2)[..., None]
    assert quality.checkerboard_ratio(slow) < 3
    with pytest.raises(ValueError, match="too small"):
        quality.checkerboard_ratio(field[:8])


def test_neighbour_cosine_equals_a_loop_and_skips_borders_unlabelled_and_missing():
    rng = np.random.default_rng(0)
    field, parcels = unit(rng.normal(size=(9, 7, 4))), rng.integers(0, 3, (9, 7))
    field[4, 4] = np.nan
    for distance in (1, 2):
        found = [
            float(field[r, c] @ field[r + dr, c + dc])
            for r in range(9)
            for c in range(7)
            for dr, dc in ((distance, 0), (0, distance))
            if r + dr < 9 and c + dc < 7 and parcels[r, c] == parcels[r + dr, c + dc] != 0
        ]
        assert quality.neighbour_cosine(field, parcels, distance) == pytest.approx(np.nanmean(found), abs=1e-6)
    with pytest.raises(ValueError, match="no parcel"):
        quality.neighbour_cosine(field, np.arange(63).reshape(9, 7), 1)


def test_effective_rank_of_known_spreads():
    rng = np.random.default_rng(0)
    assert quality.effective_rank(rng.normal(size=(20_000, 16))) == pytest.approx(16, rel=0.01)
    line = np.outer(rng.normal(size=500), np.ones(16))
    assert quality.effective_rank(line) == pytest.approx(1, abs=1e-6)
    three = rng.normal(size=(20_000, 3)) @ np.linalg.qr(rng.normal(size=(16, 3)))[0].T
    assert quality.effective_rank(three) == pytest.approx(3, rel=0.01)


def test_mean_dot_between_sites_ignores_pairs_of_one_site():
    vectors = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert quality.mean_abs_dot(vectors, np.array([0, 0, 1, 1])) == 0
    assert quality.mean_abs_dot(np.tile([[0.6, 0.8]], (4, 1)), np.array([0, 0, 1, 1])) == pytest.approx(1)
    uniform = np.random.default_rng(0).normal(size=(4000, 64))
    assert quality.mean_abs_dot(uniform, np.arange(4000)) == pytest.approx(0.100, abs=0.003)  # SPEC 3.2
    with pytest.raises(ValueError, match="two sites"):
        quality.mean_abs_dot(uniform, np.zeros(4000))


def test_collapsed_vectors_fail_their_checks():
    rng = np.random.default_rng(1)
    collapsed = unit(np.ones((200, 8)) + 0.01 * rng.normal(size=(200, 1)) * np.arange(8))
    assert [check.passed for check in quality.vector_checks(collapsed, np.arange(200))] == [False, False]
    spread = unit(rng.normal(size=(400, 8)))
    assert [check.passed for check in quality.vector_checks(spread, np.arange(400))] == [True, True]


def test_pair_cosine_of_masked_pixels():
    before = np.array([[[1.0, 0], [1, 0], [1, 0]]])
    after = np.array([[[1.0, 0], [0, 1], [np.nan, np.nan]]])
    assert quality.pair_cosine(before, after) == pytest.approx(0.5)
    assert quality.pair_cosine(before, after, np.array([[True, False, True]])) == pytest.approx(1)
    with pytest.raises(ValueError, match="both years"):
        quality.pair_cosine(before, after, np.array([[False, False, True]]))


def test_seam_ratio_is_one_without_and_large_with_a_seam():
    rng = np.random.default_rng(0)
    smooth = unit(np.ones((64, 64, 8)) + 0.1 * rng.normal(size=(64, 64, 8)))
    assert quality.seam_ratio(smooth, [32], [32]) == pytest.approx(1, abs=0.2)
    broken = smooth.copy()
    broken[:, 32:] = unit(smooth[:, 32:] + np.r_[1, np.zeros(7)])
    assert quality.seam_ratio(broken, [], [32]) > 3
    with pytest.raises(ValueError, match="no tile boundary"):
        quality.seam_ratio(smooth, [], [])


def test_checks_say_the_bounds_that_they_apply():
    rng = np.random.default_rng(0)
    sites = np.arange(400) % 7
    for directions, sound in ((64, True), (4, False)):
        vectors = np.zeros((400, 64), np.float32)
        vectors[:, :directions] = rng.normal(size=(400, directions))
        rank, dot = quality.vector_checks(vectors, sites)
        assert rank.expected == "above 4; 64 at most" and rank.passed is sound is bool(rank.value > 4)
        assert dot.expected == "below 0.9; 0.100 if uniform" and dot.passed
    image, parcels = rng.normal(size=(20, 20, 8)).astype(np.float32), np.ones((20, 20), int)
    near, far = quality.neighbour_check(image, parcels)
    assert near.expected == f"at least {far.value - 0.002:.3f}, that at 2 px less 0.002"
