import numpy as np
import pytest

from aef_model.sampling import DAY_MS, draw_sample

SUPPORT = (1_600_000_000_000, 1_600_000_000_000 + 365 * DAY_MS)
INPUTS = ("sentinel2", "sentinel1", "landsat")


def make_times():
    def every(days):
        return np.arange(SUPPORT[0] + DAY_MS, SUPPORT[1], days * DAY_MS)

    return {
        "sentinel2": every(4),
        "sentinel1": every(12),
        "landsat": every(16),
        "era5": every(30),
        "elevation": every(400),
    }


def valid_of(times):
    return {
        "era5": np.stack([times["era5"] - 15 * DAY_MS, times["era5"] + 15 * DAY_MS], -1),
        "elevation": np.array([[0, 2**62]]),
    }


@pytest.mark.parametrize("max_targets", [1, 4])
def test_held_out_frames_are_no_inputs_and_meet_their_period(max_targets):
    times = make_times()
    valid = valid_of(times)
    for seed in range(200):
        draw = draw_sample(
            times, SUPPORT, np.random.default_rng(seed), inputs=INPUTS, valid=valid, grouping="each",
            max_targets=max_targets,
        )  # fmt: skip
        assert set(draw.frames) == set(INPUTS)
        for name, index in draw.target.items():
            assert 1 <= len(index) <= max_targets and (np.diff(index) > 0).all()
            assert not np.isin(index, draw.frames.get(name, ())).any()
            start, end = draw.periods[draw.period_of[name]]
            low, high = valid[name][index].T if name in valid else (times[name][index], times[name][index] + 1)
            assert (low < end).all() and (high > start).all()
        for start, end in draw.periods.values():
            assert end - start > 4 * DAY_MS and SUPPORT[0] <= start and end <= SUPPORT[1]
        for name, limit in (("sentinel2", 65), ("sentinel1", 17), ("landsat", 21)):
            chosen = draw.frames[name]
            assert len(chosen) == min(limit, len(times[name]) - len(draw.target.get(name, ())))
            assert len(np.unique(chosen)) == len(chosen) and (np.diff(chosen) > 0).all()


def test_equal_seeds_draw_alike_whatever_the_order_of_sources():
    times = make_times()
    a = draw_sample(times, SUPPORT, np.random.default_rng(3), inputs=INPUTS)
    b = draw_sample(dict(reversed(times.items())), SUPPORT, np.random.default_rng(3), inputs=reversed(INPUTS))
    assert targets_of(a) == targets_of(b) and a.periods == b.periods
    assert all((a.frames[name] == b.frames[name]).all() for name in a.frames)
    other = draw_sample(times, SUPPORT, np.random.default_rng(4), inputs=INPUTS)
    assert targets_of(other) != targets_of(a)


def targets_of(draw):
    return {name: index.tolist() for name, index in draw.target.items()}


def test_targets_leave_three_quarters_of_an_input_source():
    times = {"sentinel2": make_times()["sentinel2"][:12], "landsat": make_times()["landsat"][:3]}
    for seed in range(50):
        draw = draw_sample(times, SUPPORT, np.random.default_rng(seed), inputs=INPUTS, whole_period=1.0, max_targets=8)
        assert len(draw.target["sentinel2"]) == 3 and len(draw.frames["sentinel2"]) == 9
        assert len(draw.target["landsat"]) == 1 and len(draw.frames["landsat"]) == 2


def test_sources_share_periods_by_group():
    times = make_times()
    draw = draw_sample(times, SUPPORT, np.random.default_rng(0), inputs=INPUTS, valid=valid_of(times), also=("text",))
    assert {draw.period_of[name] for name in INPUTS} == {"imaging"}
    assert draw.period_of["elevation"] == draw.period_of["text"] == "rest"
    assert set(draw.periods) == {"imaging", "rest"}


def test_whole_period_probability():
    times = make_times()
    whole = [
        draw_sample(times, SUPPORT, np.random.default_rng(seed), inputs=INPUTS, whole_period=0.75).periods["imaging"]
        == SUPPORT
        for seed in range(400)
    ]
    assert 0.69 < np.mean(whole) < 0.81  # 0.75 +- 2.8 standard deviations


def test_every_frame_is_sometimes_encoded_and_sometimes_target():
    times = {"sentinel2": make_times()["sentinel2"][:12]}
    encoded, targets = np.zeros(12), np.zeros(12)
    for seed in range(400):
        draw = draw_sample(
            times, SUPPORT, np.random.default_rng(seed), inputs=INPUTS, max_frames={"sentinel2": 5}, whole_period=1
        )
        encoded[draw.frames["sentinel2"]] += 1
        targets[draw.target["sentinel2"]] += 1
    assert (np.abs(encoded / 400 - 5 / 12) < 0.1).all() and (targets > 10).all()


def test_unusable_frames_are_inputs_but_never_targets():
    times = make_times()
    usable = {"sentinel2": np.zeros(len(times["sentinel2"]), bool)}
    usable["sentinel2"][7] = True
    for seed in range(50):
        draw = draw_sample(times, SUPPORT, np.random.default_rng(seed), inputs=INPUTS, usable=usable, whole_period=1)
        assert draw.target["sentinel2"].tolist() == [7]
        assert len(draw.frames["sentinel2"]) == 65


def test_the_only_frame_stays_an_input():
    times = {"sentinel2": make_times()["sentinel2"][:1], "era5": make_times()["era5"]}
    draw = draw_sample(times, SUPPORT, np.random.default_rng(0), inputs=INPUTS)
    assert draw.frames["sentinel2"].tolist() == [0] and set(draw.target) == {"era5"}
    both = {"sentinel2": times["sentinel2"], "landsat": make_times()["landsat"][:1]}
    draw = draw_sample(both, SUPPORT, np.random.default_rng(0), inputs=INPUTS)
    assert sum(map(len, draw.frames.values())) == 1 and len(draw.target) == 1


def test_sources_without_frames_are_left_out():
    times = {"sentinel2": make_times()["sentinel2"], "landsat": np.zeros(0, np.int64)}
    draw = draw_sample(times, SUPPORT, np.random.default_rng(0), inputs=INPUTS)
    assert "landsat" not in draw.target and len(draw.frames["landsat"]) == 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="support ends"):
        draw_sample(make_times(), SUPPORT[::-1], np.random.default_rng(0), inputs=INPUTS)
    with pytest.raises(ValueError, match="landsat: 23 times but usable"):
        draw_sample(
            make_times(), SUPPORT, np.random.default_rng(0), inputs=INPUTS, usable={"landsat": np.ones(3, bool)}
        )
    with pytest.raises(ValueError, match="grouping 'none'"):
        draw_sample(make_times(), SUPPORT, np.random.default_rng(0), inputs=INPUTS, grouping="none")
