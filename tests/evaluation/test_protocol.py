import json
from collections import Counter

import numpy as np
import pytest

from pipelines.evaluation import protocol
from pipelines.evaluation.labels import Task, TaskKind
from pipelines.evaluation.metrics import balanced_accuracy, error_reduction
from pipelines.evaluation.protocol import Settings
from pipelines.evaluation.scores_io import Score, read_scores, write_scores
from pipelines.storage import Storage

CROPS = Task("crops", TaskKind.CLASSIFICATION, "crop")
HEIGHT = Task("height", TaskKind.REGRESSION, "height_m")
FEW = {1: 6, 10: 4, "max": 2}


def world(seed=0, points=400, classes=4, noise=1.0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, points)
    centres = rng.normal(size=(classes, 8)) * 2
    features = (centres[truth] + noise * rng.normal(size=(points, 8))).astype(np.float32)
    train = np.arange(points) < points // 2
    return features, np.array(["wheat", "maize", "soy", "rape", "beet"])[truth], train, np.arange(points) // 20


def pick(scores, **fields):
    found = [s for s in scores if all(getattr(s, key) == value for key, value in fields.items())]
    assert len(found) == 1, found
    return found[0]


def test_separable_features_score_one_and_noise_scores_chance():
    x, y, train, sites = world(noise=0.01)
    noise = np.random.default_rng(5).normal(size=(len(y), 16)).astype(np.float32)
    scores = protocol.evaluate({"embedding": x, "noise": noise}, y, CROPS, train, ~train, sites, repeats=FEW)
    for shots in (1, 10, "max"):
        row = pick(scores, features="embedding", shots=shots, head="best", metric="balanced_accuracy")
        assert row.mean == 1 and row.n == 200
        assert pick(scores, features="noise", shots=shots, head="best", metric="balanced_accuracy").mean < 0.4
        assert pick(scores, shots=shots, metric="error_reduction").mean == pytest.approx(1)


def test_max_shot_of_a_single_draw_equals_scoring_the_heads_by_hand():
    x, y, train, sites = world(noise=2.5)
    scores = protocol.evaluate({"embedding": x}, y, CROPS, train, ~train, sites, ["max"], {"max": 1}, seed=3)
    names, of = np.unique(y, return_inverse=True)
    draw = protocol.make_draws(of, np.flatnonzero(train), "max", 1, 3, 100)[0]
    counts = Counter(of[draw])
    assert len(set(counts.values())) == 1 and counts[0] == min(Counter(of[train]).values())
    a, b = x[draw].astype(float), x[~train].astype(float)
    distances = ((b[:, None] - a[None]) ** 2).sum(2)
    nearest = names[of[draw][distances.argmin(1)]]
    design = np.c_[np.ones(len(a)), a]
    answer = [
        np.c_[np.ones(len(b)), b] @ np.linalg.lstsq(design, np.where(of[draw] == c, 1, -1), rcond=None)[0]
        for c in range(4)
    ]
    for head, found in (("knn1", nearest), ("linear", names[np.argmax(answer, 0)])):
        row = pick(scores, head=head, metric="balanced_accuracy")
        assert row.mean == pytest.approx(balanced_accuracy(y[~train], found))
        assert row.low <= row.mean <= row.high


def test_draws_are_balanced_within_the_pool_and_the_same_for_every_feature_set():
    of = np.repeat([0, 1, 2], [50, 30, 7])
    pool = np.flatnonzero(np.arange(87) % 2 == 0)
    for shot, expected in ((1, [1, 1, 1]), (10, [10, 10, 4]), ("max", [4, 4, 4])):
        for draw in protocol.make_draws(of, pool, shot, 5, 0, 100):
            assert np.isin(draw, pool).all() and len(set(draw)) == len(draw)
            assert [int((of[draw] == c).sum()) for c in range(3)] == expected
    x, y, train, sites = world(noise=3)
    settings = Settings(unscaled=frozenset({"embedding", "copy"}))
    scores = protocol.evaluate(
        {"embedding": x, "copy": x}, y, CROPS, train, ~train, sites, repeats=FEW, settings=settings
    )
    for shots in (1, 10, "max"):
        for head in ("knn1", "knn3", "linear", "best"):
            one, two = (
                pick(scores, features=name, shots=shots, head=head, metric="balanced_accuracy")
                for name in ("embedding", "copy")
            )
            assert (one.mean, one.low, one.high) == (two.mean, two.low, two.high)
        row = pick(scores, shots=shots, metric="error_reduction")
        assert row.mean == row.low == row.high == 0  # paired: nothing is left of the noise of the draws


def test_best_is_the_best_head_and_the_reduction_is_against_the_best_baseline():
    x, y, train, sites = world(noise=2)
    rng = np.random.default_rng(1)
    features = {
        "embedding": x,
        "untrained": x * 0 + rng.normal(size=x.shape).astype(np.float32),
        "poor": rng.normal(size=x.shape).astype(np.float32),
        "good": x + rng.normal(size=x.shape).astype(np.float32),
    }
    scores = protocol.evaluate(features, y, CROPS, train, ~train, sites, repeats=FEW)
    for shots in (1, 10, "max"):
        best = {}
        for name in features:
            heads = [
                pick(scores, features=name, shots=shots, head=h, metric="balanced_accuracy").mean
                for h in ("knn1", "knn3", "linear")
            ]
            best[name] = pick(scores, features=name, shots=shots, head="best", metric="balanced_accuracy").mean
            assert best[name] == max(heads)
        rival = max(best["poor"], best["good"])
        row = pick(scores, shots=shots, metric="error_reduction")
        assert row.mean == pytest.approx(float(error_reduction(best["embedding"], rival)))
        assert pick(scores, shots=shots, metric="kappa_error_reduction").mean == pytest.approx(row.mean)


def test_designed_features_get_the_better_scaling_and_the_embedding_stays_as_it_is():
    x, y, train, sites = world(noise=0.3)
    spoilt = np.c_[x, np.random.default_rng(2).normal(size=(len(y), 3)) * 1e4].astype(np.float32)
    scores = protocol.evaluate({"embedding": spoilt, "bands": spoilt}, y, CROPS, train, ~train, sites, [10], {10: 6})
    raw, scaled = (
        pick(scores, features=name, head="knn1", metric="balanced_accuracy").mean for name in ("embedding", "bands")
    )
    assert raw < 0.5 and scaled > 0.95


def test_nothing_is_learnt_from_the_test_points():
    x, y, train, sites = world(noise=2)
    x[5:25, 2] = np.nan
    x[210, 2] = np.nan

    def predictions(values):
        problem = protocol._Problem.make({"bands": values}, y, CROPS, train, ~train, sites, Settings(), 0)
        scaled = problem.scaled("bands", problem.features["bands"], 10, 0)
        draws = problem.draws(problem.train, 10, 3, 0)
        return problem.run(scaled, draws, problem.train, problem.test)

    before = predictions(x)
    moved = x.copy()
    moved[300:] = moved[300:] * 50 + 1000
    after = predictions(moved)
    for head in before:
        assert np.array_equal(before[head][:, :100], after[head][:, :100])
    problem = protocol._Problem.make({"bands": x}, y, CROPS, train, ~train, sites, Settings(), 0)
    assert problem.features["bands"][210, 2] == pytest.approx(np.nanmedian(x[train, 2]))


def test_a_point_without_a_vector_leaves_every_feature_set():
    x, y, train, sites = world()
    holed = x.copy()
    holed[390:] = np.nan
    scores = protocol.evaluate({"embedding": holed, "bands": x}, y, CROPS, train, ~train, sites, repeats=FEW)
    assert {row.n for row in scores} == {190}


def test_a_class_without_training_or_test_points_is_left_out():
    x, y, train, sites = world()
    y = y.copy()
    y[:1] = "fallow"  # one training point, below the two that a class needs
    scores = protocol.evaluate({"embedding": x}, y, CROPS, train, ~train, sites, repeats=FEW)
    assert {row.n for row in scores} == {200}
    with pytest.raises(ValueError, match="fewer than two classes"):
        protocol.evaluate({"embedding": x}, np.full(len(y), "wheat"), CROPS, train, ~train, sites)


def test_overlapping_splits_and_wrong_shapes_are_refused():
    x, y, train, sites = world()
    with pytest.raises(ValueError, match="200 points are in both splits"):
        protocol.evaluate({"embedding": x}, y, CROPS, train, train, sites)
    with pytest.raises(ValueError, match=r"'embedding' have shape \(10, 8\)"):
        protocol.evaluate({"embedding": x[:10]}, y, CROPS, train, ~train, sites)
    with pytest.raises(ValueError, match="no entry for 5 shots"):
        protocol.evaluate({"embedding": x}, y, CROPS, train, ~train, sites, [5])


def test_one_test_site_has_no_interval():
    x, y, train, _ = world()
    scores = protocol.evaluate({"embedding": x}, y, CROPS, train, ~train, np.zeros(len(y)), repeats=FEW)
    assert all(row.low is None and row.high is None for row in scores)


def test_regression_finds_a_linear_law_and_uses_more_labels_better():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 5)).astype(np.float32)
    height = x @ [1, 2, 0, -1, 0.5] + 20 + 0.5 * rng.normal(size=500)
    height[:100] = 0  # a heap of equal labels, like bare ground
    x[:100] = 0.1 * rng.normal(size=(100, 5))
    train = rng.random(500) < 0.5
    scores = protocol.evaluate({"embedding": x}, height, HEIGHT, train, ~train, np.arange(500) % 25, repeats=FEW)
    rows = {shots: pick(scores, shots=shots, head="knn3", metric="r2").mean for shots in (1, "max")}
    assert rows["max"] > rows[1]
    only = protocol.evaluate(
        {"embedding": x[100:]}, height[100:], HEIGHT, train[100:], ~train[100:], np.arange(400) % 25, repeats=FEW
    )
    assert pick(only, shots="max", head="linear", metric="r2").mean > 0.93
    assert pick(only, shots="max", head="linear", metric="mae").mean == pytest.approx(0.4, abs=0.06)  # 0.5 sqrt(2/pi)


def test_change_by_cosine_takes_its_threshold_from_training_points_only():
    angle = np.radians([0, 5, 10, 80, 85, 90] * 10)
    before = np.tile([1.0, 0.0], (60, 1)).astype(np.float32)
    after = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    label = np.where(np.degrees(angle) > 45, "changed", "stable")
    train = np.arange(60) < 30
    label[30:] = np.where(label[30:] == "changed", "stable", "changed")  # the opposite holds on test ground
    task = Task("change", TaskKind.CHANGE, "changed")
    rows = protocol.unsupervised_change(
        {"embedding": before}, {"embedding": after}, label, task, train, ~train, np.arange(60) // 6
    )
    row = pick(rows, head="threshold", metric="balanced_accuracy")
    assert row.task == "change_unsupervised" and row.mean == 0
    np.testing.assert_allclose(protocol.cosine_change(before, after)[:6], (1 - np.cos(angle[:6])) / 2, atol=1e-6)


def test_supervised_change_sees_both_years():
    rng = np.random.default_rng(0)
    before = rng.integers(0, 2, (300, 1)) * 2.0 - 1
    after = np.where(rng.random((300, 1)) < 0.5, before, -before)
    both = protocol.change_features(before + 0.01 * rng.normal(size=(300, 1)), after)
    label = np.where(before[:, 0] == after[:, 0], "stable", "changed")
    train = np.arange(300) < 150
    scores = protocol.evaluate(
        {"embedding": both},
        label,
        Task("change", TaskKind.CHANGE, "c"),
        train,
        ~train,
        np.arange(300) // 10,
        repeats=FEW,
    )
    assert pick(scores, shots="max", head="knn1", metric="balanced_accuracy").mean == 1
    assert pick(scores, shots="max", head="linear", metric="balanced_accuracy").mean < 0.7  # exclusive or


def test_scores_file_has_the_agreed_fields_and_refuses_nan(tmp_path):
    row = Score("crops", "test_sites", "max", "best", "embedding", "r2", 0.5, None, None, 7)
    write_scores(Storage(tmp_path), "reports/scores.json", [row])
    raw = json.loads((tmp_path / "reports" / "scores.json").read_text())
    assert list(raw[0]) == ["task", "split", "shots", "head", "features", "metric", "mean", "low", "high", "n"]
    assert read_scores(Storage(tmp_path), "reports/scores.json") == [row]
    with pytest.raises(ValueError, match="not finite"):
        write_scores(Storage(tmp_path), "scores.json", [Score("a", "b", 1, "c", "d", "e", float("nan"), 0, 0, 1)])


def test_a_number_of_shots_scores_alone_as_beside_the_others():
    x, y, train, sites = world(noise=2.0)
    few = Settings(shots=(1, 150, "max"), repeats={1: 3, 150: 2, "max": 2})  # 150: "max" is raised to it
    features = {"embedding": x, "annual": x[:, :4]}
    together = protocol.evaluate(features, y, CROPS, train, ~train, sites, settings=few)
    alone = [
        row
        for shot in few.shots
        for row in protocol.evaluate(features, y, CROPS, train, ~train, sites, [shot], settings=few)
    ]
    assert alone == together
