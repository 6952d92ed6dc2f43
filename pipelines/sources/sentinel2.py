"""Sentinel-2: optical, 13 bands at 10, 20 and 60 m, every five days.

SPEC 1.2 uses five bands; the founding explainer thirteen. Both are bands of one source: ``with_bands`` picks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipelines.grid import parse_time_ms
from pipelines.scenes import Scene
from pipelines.sources.base import Band, Kind, Source, Transform
from pipelines.sources.facts import fact, label, number

ALL_BANDS = (
    "coastal",
    "blue",
    "green",
    "red",
    "rededge1",
    "rededge2",
    "rededge3",
    "nir",
    "nir08",
    "nir09",
    "cirrus",
    "swir16",
    "swir22",
)
PAPER_BANDS = ("blue", "green", "red", "nir", "swir16")

# Scene classification codes that do not count in the loss: nodata, saturated, cloud shadow, cloud medium and high
# probability, thin cirrus, snow.
SCL_DROP = (0, 1, 3, 8, 9, 10, 11)


# Per cent of cloud probability up to which a pixel counts in full, and from which it does not count; between them its
# weight falls. Equal: a threshold, the paper's of 0.5 (Cloud Score+), for catalogs that have a probability.
CLOUD_PERCENT = (50.0, 50.0)

# Reflectance below this, in this share of the pixels, is no measurement: an offset was subtracted twice.
IMPOSSIBLE, IMPOSSIBLE_SHARE = -0.05, 0.01
# The darkest per cent of the clear pixels of the darkest visible band reflects less than 0.1 (50 clear frames of 64 px
# of three places in Belgium: 0.093 at most; in a smaller window haze reached 0.101). From 0.1 to 0.2 an offset of 0.1
# may be left in the numbers; what is brighter still is cloud or snow that its mask missed.
VISIBLE = ("coastal", "blue", "green", "red")
OFFSET_LEFT, DARK_PERCENT = (0.1, 0.2), 1.0
# Haze brightens the visible bands and hardly the short-wave infrared; an offset is in all bands alike. An infrared band
# whose darkest pixels (water, shadow) reflect less than this has no offset of 0.1 in it; water may come out at -0.02.
INFRARED = ("nir", "nir08", "nir09", "swir16", "swir22")
NO_OFFSET_BELOW = 0.08
_SAMPLE_PX, _MOST_ALONG = 4, 256
_LEAST_PX = 64


def trusted(
    masks: Mapping[str, NDArray], cloud_percent: tuple[float, float] = CLOUD_PERCENT
) -> NDArray[np.bool_] | NDArray[np.float32] | None:
    """1 where neither classification nor cloud probability hides the ground, 0 where one does; None without both.

    Args:
        masks: ``scl`` (class codes) and ``cloud`` (per cent), ``(H, W)``.
        cloud_percent: see :data:`CLOUD_PERCENT`.

    Returns:
        ``(H, W)`` in [0, 1]; bool where nothing lies between.
    """
    scl, cloud = masks.get("scl"), masks.get("cloud")
    clear = None if scl is None else ~np.isin(scl, SCL_DROP)
    if cloud is None:
        return clear
    full, none = cloud_percent
    if full == none:
        return cloud < none if clear is None else clear & (cloud < none)
    seen = np.clip((none - cloud.astype(np.float32)) / (none - full), 0, 1)
    return seen if clear is None else clear * seen


def with_cloud_percent(source: Source, cloud_percent: tuple[float, float]) -> Source:
    """The same source with other limits of cloud probability."""
    return replace(source, trusted=partial(trusted, cloud_percent=cloud_percent))


def contradiction(values: NDArray, scale: NDArray[np.float64], offset: NDArray[np.float64]) -> str | None:
    """Dark pixels that show that an offset is in the numbers already, although the catalog asks to add it.

    Water and shadow reflect next to nothing: with the offset of -0.1 added a second time they come out near -0.1.
    """
    for band, a, b in zip(values, scale, offset, strict=True):
        if b >= 0:
            continue
        sample = _sample(band)
        sample = sample[sample != 0]
        share = float((sample < (IMPOSSIBLE - b) / a).mean()) if sample.size >= _LEAST_PX else 0.0
        if share > IMPOSSIBLE_SHARE:
            return (
                f"{share:.0%} of the pixels have a reflectance below {IMPOSSIBLE} with the offset {b:g} that the "
                "catalog states: it is in the numbers already"
            )
    return None


def doubt(
    source: Source, values: NDArray, weight: NDArray, scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> str | None:
    """No dark pixel in any visible or infrared band, although nothing is said to have been added to the numbers.

    Water, shadow and dense vegetation are darker than 0.1 in some visible band. Bright desert is not, nor is dry land
    under haze, which is why this is a doubt and no proof. Where infrared bands have dark pixels, haze is told apart.
    """
    clear = _sample(weight) > 0
    darkest: list[float] = []
    infrared: list[float] = []
    for name, band, a, b in zip(source.band_names, values, scale, offset, strict=True):
        sample = _sample(band)[clear]
        sample = sample[sample != source.nodata]
        if name in VISIBLE + INFRARED and sample.size >= _LEAST_PX:
            if b < 0:
                return None
            found = darkest if name in VISIBLE else infrared
            found.append(float(np.percentile(sample, DARK_PERCENT)) * a + b)
    if not darkest or not OFFSET_LEFT[0] <= min(darkest) < OFFSET_LEFT[1]:
        return None
    if min(infrared, default=NO_OFFSET_BELOW) < NO_OFFSET_BELOW:
        return None
    return (
        f"no clear pixel of its visible bands is darker than {min(darkest):.3f} in reflectance with the offset 0 that "
        "was decided: the producer's offset of 0.1 may still be in the numbers"
    )


def _sample(band: NDArray) -> NDArray:
    """Every few pixels of ``(H, W)``, at most 256 along a side: as many as a percentile needs."""
    step = max(_SAMPLE_PX, -(-max(band.shape) // _MOST_ALONG))
    return band[::step, ::step]


def rank(scene: Scene, epsg: int) -> tuple[float, ...]:
    """The latest processing of a tile first; 99.99 is a user's own and says nothing."""
    baseline = number(scene, "processing_baseline", "s2:processing_baseline") or 0.0
    generated = fact(scene, "generated")
    return -baseline if baseline < 99 else 0.0, -parse_time_ms(str(generated)) if generated else 0.0


def acquisition_key(scene: Scene) -> str:
    """One datatake seen through overlapping tiles and zones is one frame.

    Without a datatake id, platform and relative orbit stand for it.
    """
    datatake = label(scene, "datatake", "s2:datatake_id", "datatake_id")
    if datatake:
        # GS2A_20200601T105031_025819_N02.14: the last part is the baseline, not the datatake.
        return "_".join(datatake.split("_")[:3])
    return f"{label(scene, 'platform')}_{label(scene, 'relative_orbit')}"


FULL = Source(
    name="sentinel2",
    kind=Kind.FRAMES,
    # Log of the digital number: reflectance x 10000, which is what the instrument team ships.
    bands=tuple(Band(name, "reflectance", Transform.LOG, factor=10_000.0) for name in ALL_BANDS),
    dtype="uint16",
    nodata=0,
    is_input=True,
    mask_roles=("scl", "cloud"),
    beyond_mask={"cloud": 255},
    trusted=trusted,
    acquisition_key=acquisition_key,
    rank=rank,
    contradiction=contradiction,
    doubt=doubt,
    shift_px=2,
    max_frames=65,
)

SOURCE = FULL.with_bands(PAPER_BANDS)
