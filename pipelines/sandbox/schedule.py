"""When satellites pass: repeat cycles thinned at random, as archives are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from pipelines.sandbox.noise import generator
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.weather import DAY_MS


@dataclass(frozen=True)
class Pass:
    """One overpass.

    Attributes:
        mission: ``sentinel2``, ``sentinel1`` or ``landsat``.
        platform: letter or number of the satellite.
        orbit: relative orbit, or WRS path.
        ascending: flight direction.
        time_ms: of the middle of the region.
        night: a Landsat pass after sunset.
    """

    mission: str
    platform: str
    orbit: int
    ascending: bool
    time_ms: int
    night: bool = False


@dataclass(frozen=True)
class _Cycle:
    platform: str
    orbit: int
    ascending: bool
    first_day: int
    repeat_days: int
    time_of_day_s: int
    night: bool = False


_S2 = [
    _Cycle("A", 108, False, 2, 10, 38_475),
    _Cycle("B", 108, False, 7, 10, 38_475),
    _Cycle("A", 8, False, 5, 10, 37_872),
    _Cycle("B", 8, False, 0, 10, 37_872),
]
_S1 = [
    _Cycle("A", 88, True, 3, 12, 62_640),
    _Cycle("A", 37, False, 6, 12, 20_880),
]
# WRS paths 197 and 196 lie side by side; by day they descend, by night they ascend.
_LANDSAT = [
    _Cycle("8", 197, False, 4, 16, 37_405),
    _Cycle("9", 197, False, 12, 16, 37_405),
    _Cycle("8", 196, False, 13, 16, 37_035),
    _Cycle("9", 196, False, 5, 16, 37_035),
]
_LANDSAT_NIGHT = [_Cycle("8", 63, True, 9, 16, 77_900, night=True)]


def passes(p: WorldParameters, mission: str) -> list[Pass]:
    """The archived passes of a mission in order of time.

    Landsat keeps at least one night pass a year where the parameters ask for any, and every year at least one pass of
    each orbit of each mission is there.
    """
    if mission == "sentinel2":
        return _draw(p, mission, _S2, p.s2_keep, p.max_dates)
    if mission == "sentinel1":
        return _draw(p, mission, _S1, p.s1_keep, p.max_dates)
    if mission == "landsat":
        day = _draw(p, mission, _LANDSAT, p.landsat_keep, None if p.max_dates is None else max(p.max_dates // 2, 1))
        night = _draw(p, "landsat-night", _LANDSAT_NIGHT, 1.0, p.landsat_night) if p.landsat_night else []
        return sorted(day + night, key=lambda one: one.time_ms)
    raise ValueError(f"mission {mission!r} has no schedule; use sentinel2, sentinel1 or landsat")


def _draw(p: WorldParameters, mission: str, cycles: list[_Cycle], keep: float, most: int | None) -> list[Pass]:
    rng = generator(p.seed, "schedule", mission)
    found: list[Pass] = []
    start = int(datetime(p.years[0], 1, 1, tzinfo=UTC).timestamp() * 1000)
    for year in p.years:
        low = int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)
        high = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp() * 1000)
        for orbit in sorted({cycle.orbit for cycle in cycles}):
            options = []
            for cycle in (one for one in cycles if one.orbit == orbit):
                time = start + cycle.first_day * DAY_MS + cycle.time_of_day_s * 1000
                while time < high:
                    jitter = int(rng.integers(-4000, 4000))
                    if time >= low:
                        options.append((time + jitter, cycle))
                    time += cycle.repeat_days * DAY_MS
            options.sort(key=lambda pair: pair[0])
            count = max(1, round(keep * len(options)) + int(rng.integers(-1, 2)))
            kept = sorted(rng.choice(len(options), min(count, len(options)), replace=False))
            chosen = [options[k] for k in kept]
            if most is not None and len(chosen) > most:
                # Spread over the year: one from each of `most` equal stretches.
                edges = [round(k * len(chosen) / most) for k in range(most + 1)]
                chosen = [chosen[int(rng.integers(a, b))] for a, b in pairwise(edges)]
            found += [
                Pass(mission.split("-")[0], c.platform, c.orbit, c.ascending, time, c.night) for time, c in chosen
            ]
    return sorted(found, key=lambda one: one.time_ms)
