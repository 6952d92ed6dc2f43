import numpy as np
import pytest

from pipelines.evaluation import probes


def naive_knn(train, labels, point, k, mean):
    order = sorted(range(len(train)), key=lambda i: np.linalg.norm(train[i] - point))[:k]
    found = [labels[i] for i in order]
    if mean:
        return sum(found) / len(found)
    most = max(found.count(label) for label in found)
    return next(label for label in found if found.count(label) == most)  # nearest first


@pytest.mark.parametrize("mean", [False, True])
def test_knn_equals_a_naive_loop_for_every_draw(mean):
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(40, 5)) + 1000, rng.normal(size=(17, 5)) + 1000
    labels = rng.normal(size=40) if mean else rng.integers(0, 4, 40)
    draws = [rng.permutation(40)[:size] for size in (1, 2, 3, 12, 40)]
    found = probes.knn(train, labels, test, draws, (1, 3), mean)
    for k in (1, 3):
        for r, draw in enumerate(draws):
            expected = [naive_knn(train[draw], list(labels[draw]), point, k, mean) for point in test]
            np.testing.assert_allclose(found[k][r], expected)


def test_knn_in_blocks_equals_knn_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    train, test, labels = rng.normal(size=(30, 3)), rng.normal(size=(25, 3)), rng.integers(0, 3, 30)
    draws = [np.arange(30), np.arange(0, 30, 2)]
    whole = probes.knn(train, labels, test, draws, (1, 3))
    monkeypatch.setattr(probes, "BLOCK", 7)
    parts = probes.knn(train, labels, test, draws, (1, 3))
    assert all(np.array_equal(whole[k], parts[k]) for k in (1, 3))


def test_three_neighbours_that_disagree_give_the_nearest():
    assert probes.majority(np.array([[2, 0, 1], [2, 0, 0], [1, 1, 0], [3, 1, 3]])).tolist() == [2, 0, 1, 3]


@pytest.mark.parametrize(("points", "dims"), [(50, 4), (50, 49), (10, 30), (2, 64)])
def test_least_squares_equals_the_pseudo_inverse_of_centred_data(points, dims):
    rng = np.random.default_rng(points)
    x, y = rng.normal(size=(points, dims)) * 3 + 7, rng.normal(size=(points, 2))
    slopes, intercepts = probes.least_squares(x, y)
    expected = np.linalg.pinv(x - x.mean(0)) @ (y - y.mean(0))
    np.testing.assert_allclose(slopes, expected, atol=1e-7)
    np.testing.assert_allclose(x.mean(0) @ slopes + intercepts, y.mean(0), atol=1e-7)


def test_least_squares_ignores_a_constant_column_and_copes_with_copies():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    y = x @ [[2.0], [-1.0]] + 5
    wide = np.concatenate([x, x[:, :1], np.full((60, 1), 3.0)], axis=1)
    slopes, intercepts = probes.least_squares(wide, y)
    np.testing.assert_allclose(wide @ slopes + intercepts, y, atol=1e-9)


def test_one_vs_rest_is_the_argmax_of_one_regression_per_class():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 60)
    train = rng.normal(size=(60, 4)) + labels[:, None] * [1, -1, 0.5, 0]
    test = rng.normal(size=(20, 4)) + 0.5
    draw = np.arange(0, 60, 2)
    design = np.c_[np.ones(30), train[draw]]
    answers = [
        np.c_[np.ones(20), test] @ np.linalg.lstsq(design, np.where(labels[draw] == c, 1, -1), rcond=None)[0]
        for c in range(3)
    ]
    assert np.array_equal(probes.linear_classes(train, labels, test, [draw])[0], np.argmax(answers, 0))


def test_threshold_has_the_best_balanced_accuracy_of_all():
    rng = np.random.default_rng(4)
    positive = rng.random(80) < 0.3
    scores = rng.normal(size=80) + positive
    chosen = probes.best_threshold(scores, positive)

    def quality(threshold):
        return ((scores > threshold)[positive].mean() + (scores <= threshold)[~positive].mean()) / 2

    assert quality(chosen) == pytest.approx(max(quality(t) for t in np.linspace(-4, 5, 20001)))


def test_threshold_between_two_separate_groups_lies_between_them():
    assert probes.best_threshold(np.array([0.1, 0.2, 0.6, 0.8]), np.array([0, 0, 1, 1], bool)) == pytest.approx(0.4)
