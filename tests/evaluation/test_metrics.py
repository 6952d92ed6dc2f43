import numpy as np
import pytest

from pipelines.evaluation import metrics
from pipelines.evaluation.metrics import Bootstrap, ClassTally, ValueTally


def test_balanced_accuracy_and_f1_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1, 2])
    found = np.array([0, 0, 0, 1, 1, 2, 2])
    # recalls 3/4, 1/2, 1; F1: 6/7, 2/4, 2/3
    assert metrics.balanced_accuracy(truth, found) == pytest.approx(0.75)
    assert metrics.macro_f1(truth, found) == pytest.approx((6 / 7 + 1 / 2 + 2 / 3) / 3)


def test_kappa_error_is_one_at_chance_and_zero_when_perfect():
    assert metrics.kappa_error(0.25, 4) == pytest.approx(1)
    assert metrics.kappa_error(1.0, 4) == 0
    assert metrics.kappa_error(0.7, 4) == pytest.approx(1 - (0.7 - 0.25) / 0.75)


def test_error_reduction_of_the_study_and_of_the_kappa_adjusted_errors():
    assert metrics.error_reduction(0.487, 0.318) == pytest.approx(0.248, abs=1e-3)  # small-scale study, 1-shot
    assert metrics.error_reduction(0.605, 0.688) == pytest.approx(-0.266, abs=1e-3)
    adjusted = 1 - metrics.kappa_error(0.487, 16) / metrics.kappa_error(0.318, 16)
    assert metrics.error_reduction(0.487, 0.318) == pytest.approx(adjusted)


def sample(rng, classes=3):
    truth, sites = rng.integers(0, classes, 90), rng.integers(0, 6, 90)
    found = np.where(rng.random((4, 90)) < 0.6, truth, rng.integers(0, classes, (4, 90)))
    return truth, sites, found


def test_tally_weighted_by_site_equals_repeating_the_points():
    rng = np.random.default_rng(0)
    truth, sites, found = sample(rng)
    weights = rng.multinomial(6, np.full(6, 1 / 6), size=5).astype(float)
    tally = ClassTally.of(found, truth, sites, 3)
    for b, weight in enumerate(weights):
        points = np.concatenate([np.flatnonzero(sites == s) for s in range(6) for _ in range(int(weight[s]))])
        for r in range(4):
            t, f = truth[points], found[r][points]
            assert tally.balanced_accuracy(weights)[b, r] == pytest.approx(metrics.balanced_accuracy(t, f))
            assert tally.macro_f1(weights)[b, r] == pytest.approx(metrics.macro_f1(t, f))


def test_regression_tally_weighted_by_site_equals_repeating_the_points():
    rng = np.random.default_rng(1)
    truth, sites = rng.normal(size=70) + 50, rng.integers(0, 6, 70)
    found = truth + rng.normal(size=(3, 70))
    weights = rng.multinomial(6, np.full(6, 1 / 6), size=5).astype(float)
    tally = ValueTally.of(found, truth, sites)
    for b, weight in enumerate(weights):
        points = np.concatenate([np.flatnonzero(sites == s) for s in range(6) for _ in range(int(weight[s]))])
        for r in range(3):
            assert tally.r2(weights)[b, r] == pytest.approx(metrics.r2(truth[points], found[r][points]))
            mae = np.mean(np.abs(truth - found[r])[points])
            assert tally.mae(weights)[b, r] == pytest.approx(mae)


def test_a_class_missing_from_a_resampling_does_not_count_as_wrong():
    tally = ClassTally.of(np.array([[0, 0, 1, 1]]), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 2)
    assert tally.balanced_accuracy(np.array([[2.0, 0.0]]))[0, 0] == 1


def test_interval_follows_the_number_of_sites_and_not_of_points():
    # Every site is all right or all wrong: 2000 points, but only 10 witnesses.
    sites = np.repeat(np.arange(10), 200)
    truth = np.tile([0, 1], 1000)
    found = np.where(sites % 2 == 0, truth, 1 - truth)[None]
    low, high = metrics.interval(
        Bootstrap.make(10, 1, 2000, 0).values(ClassTally.of(found, truth, sites, 2).balanced_accuracy)
    )
    assert low == pytest.approx(0.2, abs=0.1) and high == pytest.approx(0.8, abs=0.1)  # binomial(10, 1/2) / 10
    many = np.arange(2000)
    low, high = metrics.interval(
        Bootstrap.make(2000, 1, 500, 0).values(ClassTally.of(found, truth, many, 2).balanced_accuracy)
    )
    assert high - low < 0.06
