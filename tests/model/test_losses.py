"""Losses against plain loops in numpy."""

import numpy as np
import pytest
import torch

from aef_model import SourceConfig, losses
from aef_model.model import source_error


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_case(seed=0, shape=(3, 2, 11, 13)):
    g = seeded(seed)
    prediction, values = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
    weight = (torch.rand(shape, generator=g) < 0.7) * torch.rand(shape, generator=g)
    values[weight == 0] = float("nan")
    return prediction, values, weight


def naive_shift_invariant(prediction, values, weight, shift):
    prediction, values, weight = (x.numpy() for x in (prediction, values, weight))
    batch, bands, rows, cols = values.shape
    total = amount = 0.0
    for b in range(batch):
        tried = []
        for dy in range(-shift, shift + 1):
            for dx in range(-shift, shift + 1):
                error = known = 0.0
                for c in range(bands):
                    for y in range(shift, rows - shift):
                        for x in range(shift, cols - shift):
                            w = weight[b, c, y + dy, x + dx]
                            if w > 0:
                                error += w * abs(prediction[b, c, y, x] - values[b, c, y + dy, x + dx])
                                known += w
                tried.append((error, known, dy, dx))
        most = max(known for _, known, _, _ in tried)
        *_, dy, dx = min((t for t in tried if t[1] >= most / 2), key=lambda t: t[0] / t[1])
        for c in range(bands):
            for y in range(max(0, -dy), min(rows, rows - dy)):
                for x in range(max(0, -dx), min(cols, cols - dx)):
                    w = weight[b, c, y + dy, x + dx]
                    if w > 0:
                        total += w * abs(prediction[b, c, y, x] - values[b, c, y + dy, x + dx])
                        amount += w
    return total / amount


def test_shift_invariant_error_against_loops():
    case = random_case()
    torch.testing.assert_close(
        losses.shift_invariant_error(*case, 2).mean(), torch.tensor(naive_shift_invariant(*case, 2)), check_dtype=False
    )


@pytest.mark.parametrize("moved", [(0, 0), (2, -1), (-2, 2)])
def test_a_moved_target_costs_nothing_up_to_the_shift(moved):
    prediction = torch.randn(2, 3, 16, 16, generator=seeded())
    values = prediction.roll(moved, dims=(2, 3))
    weight = torch.ones_like(values)
    assert losses.shift_invariant_error(prediction, values, weight, 2).mean() < 1e-6
    assert losses.absolute_error(prediction, values.roll(3, dims=2), weight).mean() > 0.5
    assert losses.shift_invariant_error(prediction, prediction.roll(5, dims=2), weight, 2).mean() > 0.5


def test_each_sequence_has_its_own_shift():
    prediction = torch.randn(2, 1, 16, 16, generator=seeded())
    values = torch.stack([prediction[0].roll(1, dims=1), prediction[1].roll(-2, dims=2)])
    assert losses.shift_invariant_error(prediction, values, torch.ones_like(values), 2).mean() < 1e-6


@pytest.mark.parametrize("phase", [(0, 0), (1, 2), (2, 0)])
def test_regridded_error_against_loops(phase):
    prediction, values, weight = random_case()
    cell = 3
    total = amount = 0.0
    p, v, w = (x.double().numpy() for x in (prediction, values, weight))
    for b, c in np.ndindex(3, 2):
        for top in range(-phase[0], 11, cell):
            for left in range(-phase[1], 13, cell):
                inside = np.s_[b, c, max(top, 0) : top + cell, max(left, 0) : left + cell]
                known = w[inside] > 0
                area = w[inside].sum()
                if area > 0:
                    predicted = (w[inside] * p[inside]).sum() / area
                    target = (w[inside][known] * v[inside][known]).sum() / area
                    total, amount = total + area * abs(predicted - target), amount + area
    got = losses.regridded_error(prediction, values, weight, cell, torch.tensor(phase)).mean()
    torch.testing.assert_close(got, torch.tensor(total / amount), check_dtype=False, rtol=1e-5, atol=0)


def test_regridding_forgives_detail_within_a_cell_only():
    values = torch.zeros(1, 1, 12, 12)
    weight = torch.ones_like(values)
    zigzag = torch.tensor([1.0, -1.0]).repeat(6).expand(1, 1, 12, 12)
    assert losses.regridded_error(zigzag, values, weight, 2, torch.tensor([0, 0])).mean() < 1e-6
    assert losses.absolute_error(zigzag, values, weight).mean() == 1
    offset = losses.regridded_error(values + 1, values, weight, 2, torch.tensor([1, 1])).mean()
    torch.testing.assert_close(offset, torch.tensor(1.0))


def test_phases_cover_the_cell_evenly():
    g = seeded()
    phases = torch.stack([losses.random_phase(3, torch.device("cpu"), g) for _ in range(600)])
    assert torch.bincount(phases.flatten()).min() > 340  # 400 expected


def test_weights_are_normalised():
    case = random_case()
    for error in (losses.absolute_error, lambda *a: losses.shift_invariant_error(*a, 1)):
        torch.testing.assert_close(error(*case).mean(), error(case[0], case[1], case[2] * 7.0).mean())
    known = case[2] > 0
    by_hand = ((case[0] - case[1]).abs() * case[2])[known].sum() / case[2].sum()
    torch.testing.assert_close(losses.absolute_error(*case).mean(), by_hand)


def test_cross_entropy_ignores_the_unknown():
    g = seeded()
    logits, classes = torch.randn(2, 4, 6, 6, generator=g), torch.randint(-1, 4, (2, 6, 6), generator=g)
    weight = torch.rand(2, 6, 6, generator=g)
    log_p = logits.log_softmax(1)
    total = amount = 0.0
    for b, y, x in np.ndindex(2, 6, 6):
        if classes[b, y, x] >= 0:
            total -= weight[b, y, x] * log_p[b, classes[b, y, x], y, x]
            amount += weight[b, y, x]
    torch.testing.assert_close(losses.class_error(logits, classes, weight, 0, None).mean(), total / amount)
    one = losses.class_error(logits, classes, weight, 1, torch.zeros(2, dtype=torch.long)).mean()
    torch.testing.assert_close(one, total / amount)


def test_cross_entropy_of_cells_compares_shares():
    """A cell of one half each: predicting the half is best, whichever pixel has which class."""
    classes = torch.tensor([[[0, 1], [1, 0]]])
    start = torch.tensor([0, 0])
    even = losses.class_error(torch.zeros(1, 2, 2, 2), classes, torch.ones(1, 2, 2), 2, start).mean()
    torch.testing.assert_close(even, torch.tensor(np.log(2), dtype=torch.float32))
    sure = torch.zeros(1, 2, 2, 2)
    sure[:, 0] = 4.0
    assert losses.class_error(sure, classes, torch.ones(1, 2, 2), 2, start).mean() > even


@pytest.mark.parametrize("gap", [5.0, 14.0, 40.0])
def test_shares_of_cells_that_are_surely_wrong_keep_their_gradient(gap):
    logits = torch.zeros(1, 3, 6, 6)
    logits[:, 1] = gap
    logits.requires_grad_()
    classes, weight = torch.zeros(1, 6, 6, dtype=torch.int64), torch.ones(1, 6, 6)
    error = losses.class_error(logits, classes, weight, 3, torch.tensor([1, 2])).mean()
    torch.testing.assert_close(error, torch.nn.functional.cross_entropy(logits, classes))
    error.backward()
    assert logits.grad[:, 0].sum() == pytest.approx(-1, abs=0.02)


def test_nothing_known_is_zero_with_a_finite_gradient():
    for source in (
        SourceConfig("a", ("x",), shift_px=2),
        SourceConfig("b", ("x",), regrid_px=3),
        SourceConfig("c", ("x",), classes=(1, 2), metric="cross_entropy", regrid_px=3),
        SourceConfig("d", ("x",), extent=False),
    ):
        prediction = torch.randn(2, source.outputs, 8, 8, requires_grad=True)
        if source.classes is not None:
            values, weight = torch.full((2, 8, 8), -1), torch.zeros(2, 8, 8)
        else:
            side = 8 if source.extent else 1
            values, weight = torch.full((2, 1, side, side), float("nan")), torch.ones(2, 1, side, side)
        error = source_error(source, prediction, values, weight, seeded()).mean()
        error.backward()
        assert error == 0 and torch.equal(prediction.grad, torch.zeros_like(prediction))


def test_sources_of_one_value_a_patch():
    prediction = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    values, weight = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    each = source_error(SourceConfig("era5", ("x",), extent=False), prediction, values, weight).mean()
    whole = source_error(SourceConfig("grace", ("x",), extent=False, regrid_px=128), prediction, values, weight).mean()
    assert each == 1 and whole == 0


def test_uniformity_pairs_places_not_pixels():
    """Places that are smooth within and unlike each other cost nothing; alike places cost 1, whatever is within."""
    axes = torch.eye(64)
    smooth = axes[:4, None, None].expand(4, 8, 8, 64)
    assert losses.uniformity(smooth, torch.arange(4), seeded()) == 0
    varied = axes.reshape(1, 8, 8, 64).expand(4, 8, 8, 64)
    assert losses.uniformity(varied, torch.arange(4), seeded()) == 1
    opposite = varied * torch.tensor([1.0, -1, 1, -1]).view(4, 1, 1, 1)
    assert losses.uniformity(opposite, torch.arange(4), seeded()) == 1


def test_uniformity_against_loops():
    """For each roll of the batch axis the mean over pairs of unlike sites and over pixels."""
    code = torch.nn.functional.normalize(torch.randn(5, 2, 3, 64, generator=seeded()), dim=-1)
    site = [0, 1, 0, 2, 3]
    expected = set()
    for roll in range(1, 5):
        pairs = [(i, (i + roll) % 5) for i in range(5)]
        values = [
            abs(float(code[a, y, x].double() @ code[b, y, x].double()))
            for a, b in pairs
            if site[a] != site[b]
            for y, x in np.ndindex(2, 3)
        ]
        expected.add(round(float(np.mean(values)), 5))
    got = {round(float(losses.uniformity(code, torch.tensor(site), seeded(seed))), 5) for seed in range(40)}
    assert got == expected and len(expected) == 2  # a roll and its opposite pair alike


def test_uniformity_leaves_out_pairs_of_one_place():
    code = torch.eye(64)[:1].expand(4, 64)
    assert losses.uniformity(code, torch.zeros(4, dtype=torch.long), seeded()) == 0
    assert losses.uniformity(code, torch.tensor([0, 0, 1, 1]), seeded(1)) in (0, 1)
    for seed in range(5):
        assert losses.uniformity(torch.eye(64)[[0, 0, 1, 1]], torch.tensor([0, 0, 1, 1]), seeded(seed)) == 0


def test_uniformity_of_uniform_vectors_is_a_tenth():
    code = torch.nn.functional.normalize(torch.randn(2000, 64, generator=seeded()), dim=-1)
    assert abs(losses.uniformity(code, torch.arange(2000), seeded()) - 0.100) < 0.005


def test_consistency_is_half_the_cosine_distance():
    a, b = torch.eye(3)[:1], torch.eye(3)[1:2]
    assert losses.consistency(a, a) == 0 and losses.consistency(a, -a) == 1 and losses.consistency(a, b) == 0.5


def test_contrast_is_clip_on_present_rows():
    g = seeded()
    place, text = (torch.nn.functional.normalize(torch.randn(5, 8, generator=g), dim=-1) for _ in range(2))
    present = torch.tensor([True, False, True, True, False])
    kept = present.nonzero()[:, 0]
    logits = 10 * place[kept] @ text[kept].T
    expected = (-logits.log_softmax(1).diagonal().mean() - logits.log_softmax(0).diagonal().mean()) / 2
    torch.testing.assert_close(losses.contrast(place, text, present, torch.tensor(10.0)), expected)
    alone = torch.tensor([True, False, False, False, False])
    assert losses.contrast(place, text, alone, torch.tensor(10.0)) == 0
