import numpy as np
import pytest

from pipelines.evaluation import maps


def scene(seed=0):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.repeat(rng.integers(1, 5, (4, 4)), 8, 0), 8, 1)
    centres = np.eye(5, 12)
    vectors = centres[codes] + 0.05 * rng.normal(size=(32, 32, 12))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return codes, vectors.astype(np.float32)


@pytest.mark.parametrize("head", ["knn", "linear"])
def test_a_map_from_a_few_labels_finds_the_truth_and_leaves_holes(head, monkeypatch):
    codes, vectors = scene()
    vectors[:2, :3] = np.nan
    rows, cols = np.meshgrid([4, 12, 20, 28], [4, 12, 20, 28])
    labels = codes[rows.ravel(), cols.ravel()]
    picked = maps.pick_labels(labels, 2, seed=0)
    train = vectors[rows.ravel(), cols.ravel()]
    found = maps.classify(vectors, train[picked], labels[picked], head, k=1)
    assert (found[:2, :3] == 0).all()
    assert maps.agreement(codes, found) == (1.0, 1.0)
    monkeypatch.setattr(maps, "BLOCK", 100)
    assert np.array_equal(found, maps.classify(vectors, train[picked], labels[picked], head, k=1))
    with pytest.raises(ValueError, match="choose knn or linear"):
        maps.classify(vectors, train, labels, "forest")


def test_labels_are_picked_by_class_and_never_nodata():
    codes = np.array([0, 1, 1, 1, 2, 0, 1])
    picked = maps.pick_labels(codes, 2, seed=3)
    assert sorted(codes[picked]) == [1, 1, 2]


def test_regression_map_follows_a_linear_law():
    rng = np.random.default_rng(0)
    field = rng.normal(size=(6, 5, 3)).astype(np.float32)
    height = field @ [1.0, -2.0, 0.5] + 4
    train = rng.normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_allclose(maps.regress(field, train, train @ [1.0, -2.0, 0.5] + 4), height, atol=1e-5)


def test_change_is_zero_for_equal_half_for_orthogonal_one_for_opposite():
    before = np.array([[[1.0, 0], [1, 0], [1, 0], [1, 0]]], np.float32)
    after = np.array([[[2.0, 0], [0, 1], [-1, 0], [np.nan, 0]]], np.float32)
    np.testing.assert_allclose(maps.change(before, after), [[0, 0.5, 1, np.nan]], atol=1e-7)


def test_agreement_by_hand():
    truth = np.array([[1, 1, 1, 2, 0, 2]])
    found = np.array([[1, 1, 2, 2, 1, 0]])
    assert maps.agreement(truth, found) == (0.75, pytest.approx((2 / 3 + 1) / 2))
    with pytest.raises(ValueError, match="no pixel in common"):
        maps.agreement(truth, truth * 0)
