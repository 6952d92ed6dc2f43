"""Precipitation by the day: the sum of the hours, or of a store that adds up since midnight, what it has come to.

Every sample is of the time that ends at its stamp: that of 00 UTC belongs to the day, and the month, before.
ERA5-Land's hourly precipitation is accumulated since 00 UTC: hour 5 holds the rain of five hours, and the value that is
stamped 00 UTC is that of the whole day before. ERA5's is that of the hour, and so is that of some copies of ERA5-Land,
under the same names. Which it is, the data say: a sum never falls within its day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.coregister.complete import nearly_all

# A day counts where this much is reached, and falls where it loses this share of it: both are beyond the rounding of
# packed maps, 1e-5 m.
WET_M = 2e-4
SHARE = 0.1
# Days that decide. Rain that only grows until midnight is rare; so many such days and hardly another are no chance.
MIN_WET_DAYS = 5
MAX_FALLING = 0.05
# Where the days do not decide, a difference up to this does not matter.
NEGLIGIBLE_M = 1e-3
_NANOSECOND = pd.Timedelta(1, "ns")


@dataclass
class Days:
    """How many wet days were seen whose values rise, fall or stay within the day, which is from 01 UTC to 00 UTC."""

    rising: int = 0
    falling: int = 0
    level: int = 0

    def add(self, day_TN: NDArray[np.float64]) -> None:
        """A day's values in metres, of one or more cells; too few moments say nothing."""
        known = day_TN[~np.isnan(day_TN).all(axis=1)]
        if len(known) < 3:
            return
        highest = np.fmax.accumulate(known, axis=0)
        greatest = highest[-1]
        wet = greatest >= WET_M
        fallen = wet & (np.nanmax(np.where(wet, highest - known, 0.0), axis=0) > SHARE * greatest)
        risen = wet & ~fallen & (greatest - highest[0] > SHARE * greatest)
        if fallen.sum() > SHARE * wet.sum():
            self.falling += 1
        elif wet.any():
            self.rising += int(2 * risen.sum() > wet.sum())
            self.level += int(2 * risen.sum() <= wet.sum())

    @property
    def wet(self) -> int:
        return self.rising + self.falling + self.level

    def say(self) -> bool | None:
        """Whether the values are sums since midnight; None: these days do not tell."""
        if self.wet >= MIN_WET_DAYS:
            if self.falling <= MAX_FALLING * self.wet and self.rising > self.level:
                return True
            return False if self.rising <= self.wet / 2 else None
        return False if self.falling else None


def is_accumulated(
    days: Days, setting: bool | None, attributes: Iterable[Mapping[str, Any]], difference_m: float
) -> bool:
    """Whether a store's precipitation adds up since midnight.

    What was set holds; else what the data say; where they do not tell, what the store is called; and where it is not
    called ERA5-Land and it matters, nothing is guessed.

    Args:
        days: as seen.
        setting: what the catalog says; None: nothing.
        attributes: of the store and its variable.
        difference_m: between the sums of both readings.

    Raises:
        ValueError: the data contradict the setting or themselves, or do not tell.
    """
    said = days.say()
    if setting is not None:
        if setting and said is False and days.falling >= MIN_WET_DAYS:
            raise ValueError(
                f"catalogs.NAME.options.accumulated is true, but precipitation falls within {days.falling} of "
                f"{days.wet} wet days, as a sum since midnight never does; set it to false"
            )
        return setting
    if said is not None:
        return said
    if days.wet < MIN_WET_DAYS and any(_is_land(found) for found in attributes):
        return True
    if difference_m <= NEGLIGIBLE_M:
        return False
    raise ValueError(
        f"whether precipitation is that of the hour or the sum since midnight cannot be told from {days.wet} wet days, "
        f"of which {days.rising} rise and {days.falling} fall; set catalogs.NAME.options.accumulated to false or true"
    )


def daily(hours: pd.Series, accumulated: bool, a_day: int) -> pd.Series:
    """Sums by the day of a series in metres; NaN for a day of which too little is there.

    Args:
        hours: by moment, up to the midnight that ends the last day; or one sample a day, stamped with that day.
        accumulated: they are sums since midnight.
        a_day: samples of a whole day, of which nearly all must be there: a series may begin an hour after midnight.
    """
    if a_day == 1 and not accumulated:
        return hours.resample("D").sum(min_count=1)
    days = hours.groupby(_day_of(hours.index))
    return (days.max() if accumulated else days.sum()).where(days.count() >= nearly_all(a_day))


def days_of(values_TN: NDArray[np.float64], moments: pd.DatetimeIndex) -> Days:
    """What the days of a series of one or more cells say."""
    seen = Days()
    edges = np.flatnonzero(np.diff(_day_of(moments).asi8)) + 1
    for part in np.split(values_TN, edges):
        seen.add(part)
    return seen


def difference(values_TN: NDArray[np.float64], moments: pd.DatetimeIndex) -> float:
    """The most that both readings differ by in any cell, over the whole series, in metres."""
    edges = np.flatnonzero(np.diff(_day_of(moments).asi8)) + 1
    sums = sum(np.nansum(part, axis=0) for part in np.split(values_TN, edges))
    ends = sum(np.nanmax(np.nan_to_num(part), axis=0) for part in np.split(values_TN, edges))
    return float(np.max(sums - ends, initial=0.0))


def _day_of(moments: pd.Index) -> pd.DatetimeIndex:
    """The day that each hour ends in: midnight belongs to the day before."""
    return (pd.DatetimeIndex(moments) - _NANOSECOND).floor("D")


def _is_land(attributes: Mapping[str, Any]) -> bool:
    return any("era5-land" in str(value).lower().replace("_", "-").replace(" ", "-") for value in attributes.values())
