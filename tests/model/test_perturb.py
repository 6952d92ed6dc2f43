import pytest
import torch
from conftest import DAY, YEAR_2021, make_frames, year

from aef_model import ModelConfig
from aef_model.perturb import BACKCAST, DROP_FRAMES, FORECAST, drop_frames, random_period, student_view

SOURCES = {"sentinel2": 0.0, "sentinel1": 0.3, "landsat": 0.3}
FRAMES = {"sentinel2": 0.5, "sentinel1": 0.3, "landsat": 0.3}
BATCH = 600
MIDDLE = (YEAR_2021[0] + YEAR_2021[1]) // 2


@pytest.fixture(scope="module")
def frames():
    counts = {"sentinel2": 20, "sentinel1": 10, "landsat": 10}
    cfg = ModelConfig.named("tiny", inputs={name: ("a",) for name in counts})
    return make_frames(cfg, BATCH, (1, 1), counts=counts)


def view(frames, strategy=None, seed=0, **kwargs):
    if strategy is not None:
        strategy = torch.full((BATCH,), strategy)
    g = torch.Generator().manual_seed(seed)
    return student_view(frames, year(BATCH), SOURCES, FRAMES, g, strategy=strategy, **kwargs)


def test_teacher_loses_frames_at_their_rates(frames):
    left = drop_frames(frames, FRAMES, torch.Generator().manual_seed(0)).present
    for name, rate in FRAMES.items():
        assert abs(1 - left[name].float().mean() - rate) < 0.03  # 6000 draws or more: 5 standard errors
    assert frames.present["sentinel2"].all()


def teacher_view(frames):
    return drop_frames(frames, FRAMES, torch.Generator().manual_seed(3))


def student_without_sources_lost(frames):
    g, strategy = torch.Generator().manual_seed(4), torch.full((BATCH,), DROP_FRAMES)
    return student_view(frames, year(BATCH), {}, FRAMES, g, strategy=strategy)[0]


@pytest.mark.parametrize("perturbed", [teacher_view, student_without_sources_lost])
@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_lost_one_by_one_at_their_sources_rate(frames, name, perturbed):
    """Half of Sentinel-2's, a third of the others': by a coin of its own for each frame of each sequence.

    Every slot alike (no date, and no orbit that comes every n-th slot, goes more often), as many a sequence as coins
    give, and no frame with another, of its own sequence or at its place in the next.
    """
    lost = (~perturbed(frames).present[name]).double()
    slots, rate = lost.shape[1], FRAMES[name]
    error = (rate * (1 - rate) / BATCH) ** 0.5  # of a slot's share
    assert abs(lost.mean() - rate) < 4 * error / slots**0.5
    assert ((lost.mean(dim=0) - rate).abs() < 4.5 * error).all()
    for step in (2, 3, 5):
        every_nth = torch.stack([lost[:, first::step].mean() for first in range(step)])
        assert (every_nth.max() - every_nth.min()) < 6 * error / (slots // step) ** 0.5
    counts = lost.sum(dim=1)
    assert counts.var() / (slots * rate * (1 - rate)) == pytest.approx(1, abs=4.5 * (2 / BATCH) ** 0.5)
    centred = lost - rate
    for other in (centred.roll(1, dims=0), *(centred.roll(shift, dims=1) for shift in range(1, slots // 2))):
        assert abs((centred * other).mean()) < 4.5 * rate * (1 - rate) / (BATCH * slots) ** 0.5


def test_student_loses_sources_and_frames_but_never_all(frames):
    student, period = view(frames, DROP_FRAMES)
    gone = {name: (~mask.any(1)).float().mean() for name, mask in student.present.items()}
    assert gone["sentinel2"] < 0.01 and abs(gone["landsat"] - 0.3) < 0.08 and abs(gone["sentinel1"] - 0.3) < 0.08
    assert torch.stack([mask.any(1) for mask in student.present.values()]).any(0).all()
    rest = student.present["landsat"][student.present["landsat"].any(1)]
    assert abs(rest.float().mean() - 0.7) < 0.04
    assert (period[:, 1] - period[:, 0] > 4 * DAY).all()
    assert (period[:, 0] >= YEAR_2021[0]).all() and (period[:, 1] <= YEAR_2021[1]).all()


@pytest.mark.parametrize(("strategy", "dropped_late"), [(FORECAST, True), (BACKCAST, False)])
def test_half_a_year_goes_and_the_period_lies_in_it(frames, strategy, dropped_late):
    student, period = view(frames, strategy)
    for name, mask in student.present.items():
        late = student.time_ms[name] >= MIDDLE
        assert not (mask & (late == dropped_late)).any()
    # Sentinel-2 keeps every frame of the other half
    assert torch.equal(student.present["sentinel2"], (student.time_ms["sentinel2"] >= MIDDLE) != dropped_late)
    low, high = (MIDDLE, YEAR_2021[1]) if dropped_late else (YEAR_2021[0], MIDDLE)
    assert (period[:, 0] >= low).all() and (period[:, 1] <= high).all()
    assert (period[:, 1] - period[:, 0] > 4 * DAY).all()


def test_strategies_are_equally_likely(frames):
    student, _ = view(frames)
    s2, late = student.present["sentinel2"], student.time_ms["sentinel2"] >= MIDDLE
    no_late, no_early = ~(s2 & late).any(1), ~(s2 & ~late).any(1)
    assert abs(no_late.float().mean() - 1 / 3) < 0.08 and abs(no_early.float().mean() - 1 / 3) < 0.08


def test_a_sequence_without_a_frame_in_the_half_that_is_left_loses_single_frames_instead(frames):
    early = {name: torch.full_like(t, YEAR_2021[0] + DAY) for name, t in frames.time_ms.items()}
    only_early = type(frames)(frames.pixels, early, frames.present)
    student, period = view(only_early, BACKCAST)
    assert abs(student.present["sentinel2"].float().mean() - 0.5) < 0.03
    assert torch.stack([mask.any(1) for mask in student.present.values()]).any(0).all()
    assert (period[:, 1] > MIDDLE).any()


@pytest.mark.parametrize(("strategy", "dropped_late"), [(FORECAST, True), (BACKCAST, False)])
def test_short_sequences_never_see_the_half_that_they_are_asked_about(strategy, dropped_late):
    """One frame a source: sources go often, and then their frames of the other half are what comes back."""
    counts = dict.fromkeys(SOURCES, 2)
    cfg = ModelConfig.named("tiny", inputs={name: ("a",) for name in counts})
    few = make_frames(cfg, BATCH, (1, 1), counts=counts)
    middle, half = torch.full((BATCH, 1), MIDDLE), 50 * DAY
    times = {name: torch.cat([middle - half, middle + half], dim=1) for name in counts}
    everything_goes = dict.fromkeys(SOURCES, 1.0)
    generator = torch.Generator().manual_seed(0)
    split = type(few)(few.pixels, times, {name: torch.ones(BATCH, 2, dtype=torch.bool) for name in counts})
    student, _ = student_view(
        split, year(BATCH), everything_goes, FRAMES, generator, strategy=torch.full((BATCH,), strategy)
    )
    for mask in student.present.values():
        assert mask[:, 0 if dropped_late else 1].all() and not mask[:, 1 if dropped_late else 0].any()


def test_absent_frames_stay_absent(frames):
    present = {name: torch.rand(mask.shape) < 0.5 for name, mask in frames.present.items()}
    thinned = type(frames)(frames.pixels, frames.time_ms, present)
    student, _ = view(thinned)
    assert all(not (student.present[name] & ~present[name]).any() for name in present)


def test_whole_period_is_asked_for_with_its_probability(frames):
    _, period = view(frames, DROP_FRAMES, whole_period=0.5)
    assert abs((period == year(BATCH)).all(1).float().mean() - 0.5) < 0.09
    _, period = view(frames, FORECAST, whole_period=1.0)
    assert (period[:, 0] >= MIDDLE).all()


def test_random_periods_vary_in_length_and_place():
    start, end = year(4000).unbind(1)
    period = random_period(start, end, torch.Generator().manual_seed(0))
    length = (period[:, 1] - period[:, 0]) / DAY
    assert length.min() > 4 and length.max() <= 365 and abs(length.mean() - 184.5) < 8
    short = random_period(start[:5], start[:5] + 3 * DAY)
    assert torch.equal(short, torch.stack([start[:5], start[:5] + 3 * DAY], 1))
