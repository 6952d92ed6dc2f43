"""What a source is: everything that is true of one kind of measurement, as a value.

Each module beside this one makes one :class:`Source`. Nothing here reads files or talks to catalogs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from pipelines.scenes import Scene


class Kind(StrEnum):
    """The shape of what a source measures."""

    FRAMES = "frames"  # a time series of images
    STATIC = "static"  # one image that holds for all times
    CLASSES = "classes"  # images of class codes
    SERIES = "series"  # a time series without spatial extent at patch scale
    POINTS = "points"  # sparse footprints
    TEXT = "text"


class Transform(StrEnum):
    """From physical values to the space in which statistics are taken."""

    IDENTITY = "identity"
    LOG = "log"  # log(1 + x) / 10, SPEC 1.3
    DECIBEL = "decibel"  # 10 log10(x)
    RADIANS = "radians"  # degrees to radians


@dataclass(frozen=True)
class Band:
    """One band of a source.

    Attributes:
        name: the project's name of the band, which is also the key in ``Scene.assets``.
        unit: of the physical value.
        transform: applied to ``physical * factor`` before statistics.
        factor: brings physical values to the scale in which the transform is meant (reflectance x 10000).
        valid: inclusive range of the *transformed* value outside which a pixel counts as not measured.
    """

    name: str
    unit: str
    transform: Transform = Transform.IDENTITY
    factor: float = 1.0
    valid: tuple[float, float] = (-np.inf, np.inf)


# Half of what an orbit takes: pieces of a pass lie closer together, the next pass over a place lies farther away.
PASS_MS = 45 * 60_000


def _no_key(scene: Scene) -> str:
    return scene.scene_id


def _keep_all(scene: Scene) -> bool:
    return True


def _no_rank(scene: Scene, epsg: int) -> tuple[float, ...]:
    return ()


def _believe(values: NDArray, scale: NDArray[np.float64], offset: NDArray[np.float64]) -> str | None:
    return None


def _no_doubt(
    source: Source, values: NDArray, weight: NDArray, scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> str | None:
    return None


def _no_geometry(scene: Scene) -> tuple[float, ...]:
    return ()


def _trust_all(masks: Mapping[str, NDArray]) -> NDArray[np.bool_] | None:
    return None


@dataclass(frozen=True)
class Source:
    """One kind of measurement.

    Attributes:
        name: ``sentinel2`` ...
        kind: shape of the measurements.
        bands: in the order of the channel axis.
        dtype, nodata: of the native arrays held in shards.
        unmeasured: stored numbers that mean "not measured" whatever catalog and file say.
        is_input: encoded by the model (every source is also a target).
        geometry_names: the decoder's acquisition numbers; ``geometry`` computes them from a scene.
        mask_roles: roles of quality assets read beside the bands, nearest neighbour.
        beyond_mask: by role, what holds beyond a mask's edge, where that is not 0.
        trusted: mask assets by role ``(H, W)`` -> how far a pixel counts in the loss, as bool or from 0 to 1 (None: no
            opinion).
        keep: False for a scene that must not be used at all (a night scene).
        acquisition_key: scenes with one key are pieces of the same frame (tiles of one datatake, rows of one path),
            those of ``Kind.FRAMES`` where they were taken in one pass: a key need not tell passes apart.
        rank: of a scene among the pieces of a frame on a grid of some zone (EPSG code), least first; scenes of that
            zone come before all others, and of equal ranks the largest scene first.
        contradiction: stored numbers ``(C, H, W)`` with their scales and offsets -> what shows that these are wrong.
        doubt: the same with the weights ``(H, W)`` -> what makes these look wrong, without showing it.
        metric: "l1" or "cross_entropy".
        loss_weight: w_i of SPEC Table S2.
        shift_px, regrid_px: shift-invariance and re-gridding distance of the loss, in 10 m pixels (0: none).
        classes: for ``Kind.CLASSES``: the class codes in order.
        max_frames: frames drawn into a training sequence by default (SPEC section 4).
    """

    name: str
    kind: Kind
    bands: tuple[Band, ...]
    dtype: str
    nodata: float
    unmeasured: tuple[float, ...] = ()
    is_input: bool = False
    geometry_names: tuple[str, ...] = ()
    geometry: Callable[[Scene], tuple[float, ...]] = _no_geometry
    mask_roles: tuple[str, ...] = ()
    beyond_mask: Mapping[str, int] = field(default_factory=dict)
    trusted: Callable[[Mapping[str, NDArray]], NDArray | None] = _trust_all
    keep: Callable[[Scene], bool] = _keep_all
    acquisition_key: Callable[[Scene], str] = _no_key
    rank: Callable[[Scene, int], tuple[float, ...]] = _no_rank
    contradiction: Callable[[NDArray, NDArray[np.float64], NDArray[np.float64]], str | None] = _believe
    doubt: Callable[[Source, NDArray, NDArray, NDArray[np.float64], NDArray[np.float64]], str | None] = _no_doubt
    metric: str = "l1"
    loss_weight: float = 1.0
    shift_px: int = 0
    regrid_px: int = 0
    classes: tuple[int, ...] = ()
    class_names: tuple[str, ...] = ()
    max_frames: int = 1

    def acquisitions(self, scenes: Iterable[Scene]) -> list[list[Scene]]:
        """Scenes in the acquisitions whose pieces they are, each by time.

        No date tells passes apart: over 150 degrees east the satellites of the morning cross midnight UTC.
        """
        by_key: defaultdict[str, list[Scene]] = defaultdict(list)
        for scene in sorted(scenes, key=lambda scene: (scene.time_ms, scene.scene_id)):
            by_key[self.acquisition_key(scene)].append(scene)
        if self.kind is not Kind.FRAMES:
            return list(by_key.values())
        passes: list[list[Scene]] = []
        for pieces in by_key.values():
            passes.append([pieces[0]])
            for before, piece in pairwise(pieces):
                if piece.time_ms - before.time_ms < PASS_MS:
                    passes[-1].append(piece)
                else:
                    passes.append([piece])
        return passes

    @property
    def band_names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)

    def with_bands(self, names: tuple[str, ...] | list[str]) -> Source:
        """The same source restricted to (and ordered as) some of its bands.

        Raises:
            ValueError: for a band the source does not have.
        """
        known = {band.name: band for band in self.bands}
        for name in names:
            if name not in known:
                raise ValueError(f"source {self.name} has no band {name!r}; it has {', '.join(known)}")
        return replace(self, bands=tuple(known[name] for name in names))

    def to_model_space(self, values: Any, scale: Any, offset: Any, nodata: float, *, exact: bool = False) -> Any:
        """Native numbers to the space of the statistics, NaN where nothing was measured.

        Works on numpy arrays and torch tensors alike, on whatever device they are.

        Args:
            values: ``(..., C, H, W)`` native dtype.
            scale: ``(..., C)`` of :class:`pipelines.sequence.RasterFrames`.
            offset: ``(..., C)``.
            nodata: stored number that means "not measured".
            exact: in double precision, for statistics: an offset taken from small numbers costs single precision its
                last digits.

        Returns:
            ``(..., C, H, W)`` float32, or float64.
        """
        xp = array_namespace(values)
        real = xp.float64 if exact else xp.float32
        stored = xp.astype(values, real)
        missing = xp.isnan(stored) if np.isnan(nodata) else (stored == nodata) | xp.isnan(stored)
        physical = stored * xp.astype(scale, real)[..., None, None] + xp.astype(offset, real)[..., None, None]
        parts = []
        start = 0
        # Neighbouring bands that share a transform are taken in one go: GEDI has 101 of one kind.
        for _, alike in groupby(self.bands, key=lambda band: (band.transform, band.factor, band.valid)):
            run = list(alike)
            band, stop = run[0], start + len(run)
            x = apply_transform(physical[..., start:stop, :, :] * band.factor, band.transform)
            low, high = band.valid
            bad = missing[..., start:stop, :, :] | ~xp.isfinite(x) | (x < low) | (x > high)
            parts.append(xp.where(bad, xp.asarray(float("nan"), dtype=real), x))
            start = stop
        return parts[0] if len(parts) == 1 else xp.concat(parts, axis=-3)


def apply_transform(x: Any, transform: Transform) -> Any:
    """One band's transform on a float array of numpy or torch."""
    xp = array_namespace(x)
    if transform is Transform.LOG:
        return xp.log1p(xp.clip(x, 0.0, None)) / 10
    if transform is Transform.DECIBEL:
        tiny = xp.asarray(1e-10, dtype=x.dtype)
        return xp.where(x > 0, 10 * xp.log10(xp.where(x > 0, x, tiny)), xp.asarray(float("nan"), dtype=x.dtype))
    if transform is Transform.RADIANS:
        return x * (np.pi / 180)
    return x
