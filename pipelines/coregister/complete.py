"""When a day or a month of weather is complete enough to be spoken of."""

from __future__ import annotations

import math

MIN_SHARE = 0.9


def samples_a_day(step_s: float | None) -> int:
    """How many samples a whole day has, at a distance in seconds; 1 where it is not known."""
    return max(1, round(86_400 / step_s)) if step_s else 1


def nearly_all(count: int) -> int:
    """How many samples of a day, or days of a month, must be there to speak of it; a month's sum needs all days."""
    return math.ceil(MIN_SHARE * count - 1e-9)
