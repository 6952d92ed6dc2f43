"""Every number that shapes the synthetic Earth, by name, and the three sizes it comes in.

Knows nothing of rendering or files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

RENDERER_VERSION = 1  # raise it when the same parameters would give other bytes; it is part of the identity


@dataclass(frozen=True)
class WorldParameters:
    """The world and what is observed of it.

    Distances are metres, times days unless a name says otherwise. The local plane is a transverse Mercator projection
    around (``centre_lon``, ``centre_lat``); a UTM zone boundary runs through its x = 0.
    """

    size: str = "small"
    seed: int = 7
    years: tuple[int, ...] = (2021, 2022)
    width_m: float = 10_000.0
    height_m: float = 10_000.0
    centre_lon: float = 6.0
    centre_lat: float = 49.6

    # relief
    relief_m: float = 220.0
    relief_wavelength_m: float = 4_500.0
    relief_octaves: int = 7
    base_elevation_m: float = 180.0
    river_wavelength_m: float = 7_000.0
    river_half_width_m: float = 28.0

    # parcels: 165 m spacing with a fifth of the seeds left out gives 45 to 50 parcels in a 1.28 km square
    parcel_spacing_m: float = 165.0
    parcel_jitter: float = 0.42
    parcel_dropped: float = 0.22
    parcel_stretch: float = 1.5

    # timing (days); 14 days a standard deviation of northing, as in a continent squeezed into the region
    climate_days_per_sd: float = 14.0
    field_days_sd: float = 4.0
    field_wavelength_m: float = 1_300.0
    sowing_days_sd: float = 6.0

    # change between years
    clearing_rate: float = 0.14
    building_rate: float = 0.05
    ploughing_rate: float = 0.08
    monoculture_rate: float = 0.15

    # within-parcel variety
    spectral_sd: float = 0.10
    vigour_sd: float = 0.12
    soil_sd: float = 0.20

    # Sentinel-2
    s2_keep: float = 0.30  # of 146 passes a year: two satellites on two relative orbits
    clear_fraction: float = 0.45
    s2_gain_sd: float = 0.03
    s2_shift_px: float = 0.3
    s2_bad_masks: float = 0.08
    tile_overlap_m: float = 960.0
    zone_overlap_m: float = 1_200.0
    baseline_0400: str = "2022-01-25"

    # Sentinel-1, Landsat
    s1_keep: float = 0.30  # of 61 passes a year over two orbits
    s1_enl: float = 4.4
    landsat_keep: float = 0.13  # of 92 passes a year: two satellites on two paths
    landsat_night: int = 2  # scenes a year

    # the rest
    gedi_granules: int = 12
    landcover_wrong: float = 0.15
    landcover_covered: float = 0.75
    text_articles: int = 84
    text_records: int = 166
    max_dates: int | None = None  # cap of dates a year and orbit, for tests

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"sandbox size {self.size!r} is unknown; choose one of {', '.join(SIZES)}")
        if min(self.width_m, self.height_m) < 2_000:
            raise ValueError(f"sandbox of {self.width_m:g} x {self.height_m:g} m is too small; use 2000 m or more")
        if list(self.years) != list(range(self.years[0], self.years[0] + len(self.years))):
            raise ValueError(f"sandbox years {self.years} must follow one another")

    @property
    def identity(self) -> str:
        """Hash of everything that decides the bytes."""
        text = json.dumps({"renderer": RENDERER_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


SIZES: dict[str, dict] = {
    "tiny": {
        "width_m": 2_600.0,
        "height_m": 2_600.0,
        "max_dates": 4,
        "tile_overlap_m": 480.0,
        "zone_overlap_m": 480.0,
        "relief_wavelength_m": 1_500.0,
        "river_wavelength_m": 2_500.0,
        "gedi_granules": 4,
        "landsat_night": 1,
        "text_articles": 24,
        "text_records": 48,
    },
    "small": {},
    "large": {
        "width_m": 30_000.0,
        "height_m": 30_000.0,
        "gedi_granules": 30,
        "text_articles": 1200,
        "text_records": 2400,
    },
}


def parameters_for(size: str, seed: int) -> WorldParameters:
    """The parameters of a named size.

    Raises:
        ValueError: for an unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"sandbox size {size!r} is unknown; choose one of {', '.join(SIZES)}")
    return WorldParameters(size=size, seed=seed, **SIZES[size])
