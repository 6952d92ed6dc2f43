import torch
from conftest import DAY, ms

from aef_model.timecode import decode_time_code, period_code, relative_code, relative_days, time_code


def distance(a, b):
    return (a - b).norm(dim=-1)


def test_codes_are_smooth_at_a_day_and_distinct_over_years():
    days = ms(2017, 1, 1) + torch.arange(8 * 365) * DAY
    code = time_code(days)
    step = distance(code[1:], code[:-1])
    assert step.max() < 0.5  # of a norm of 3.5
    apart = torch.cdist(code, code)
    gap = (torch.arange(len(days))[:, None] - torch.arange(len(days))).abs()
    assert apart[gap >= 7].min() > 2 * step.max()  # a week is told apart wherever it is, in every year
    assert apart[gap == 365].min() > 0.15 and apart[(gap == 365) | (gap == 730)].max() < apart[gap == 182].min()


def test_first_of_january_is_nothing_special():
    new_year = ms(2020, 1, 1) + torch.arange(-30, 31) * DAY
    step = distance(time_code(new_year[1:]), time_code(new_year[:-1]))
    assert step[29:31].max() < 1.01 * step.max() and step[29:31].min() > 0.99 * step.min()
    assert step.max() / step.min() < 1.05
    midnight = torch.tensor([ms(2020, 1, 1) - 1, ms(2020, 1, 1)])
    assert distance(*time_code(midnight)) < 1e-6


def test_milliseconds_survive():
    """Minutes apart in 2045: float32 epoch milliseconds would be equal (their step there is 4 minutes)."""
    t = torch.tensor([ms(2045, 6, 1), ms(2045, 6, 1) + 60_000])
    a, b = time_code(t).double()
    per_day = distance(*time_code(torch.tensor([ms(2045, 6, 1), ms(2045, 6, 2)])).double())
    torch.testing.assert_close((a - b).norm() * 1440, per_day, rtol=0.05, atol=0)


def test_period_codes_tell_length_and_place():
    year, half, moved = (
        torch.tensor([[ms(2021, *a), ms(*b)]])
        for a, b in (((1, 1), (2022, 1, 1)), ((1, 1), (2021, 7, 1)), ((2, 1), (2022, 2, 1)))
    )
    assert distance(period_code(year), period_code(half)) > 1 and distance(period_code(year), period_code(moved)) > 1


def test_relative_codes():
    period = torch.tensor([[[ms(2021, 1, 1), ms(2022, 1, 1)]]])
    times = torch.tensor([[ms(2020, 1, 1), ms(2021, 1, 1), ms(2021, 7, 2) + DAY // 2, ms(2022, 1, 1), ms(2023, 1, 1)]])
    since, length = relative_days(times, period)
    position, inside, before, after = relative_code(since, length)[0, 0].T
    torch.testing.assert_close(position, torch.tensor([-1.0, -1, 0, 1, 1]))
    assert inside.tolist() == [0, 1, 1, 0, 0]
    assert before[0] > 1 and (before[1:] == 0).all() and after[4] > 1 and (after[:4] == 0).all()


def test_decoded_instants_are_relative_to_their_period():
    year = torch.tensor([[ms(2021, 1, 1), ms(2022, 1, 1)], [ms(2018, 1, 1), ms(2019, 1, 1)]])
    a, b = decode_time_code(torch.tensor([ms(2021, 4, 1), ms(2018, 4, 1)]), year)
    torch.testing.assert_close(a, b)
    start, end = decode_time_code(year[0], year[:1].expand(2, 2))
    assert distance(start, end) > 1
    torch.testing.assert_close(decode_time_code(torch.tensor([ms(2030, 1, 1)]), year[:1])[0], end)
