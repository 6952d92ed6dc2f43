"""The hidden truth: a continuous, seeded world that answers at any point of a local plane.

Plane coordinates are metres east and north of the centre in a transverse Mercator projection, so both UTM zones
that meet at x = 0 see one and the same world. Nothing here knows sensors, grids or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer
from scipy.spatial import cKDTree

from pipelines.sandbox.legend import CLASSES, CODE, CROP_SHARES, CROPS, FIRST_CROP, SHARES
from pipelines.sandbox.noise import NoiseField, generator
from pipelines.sandbox.parameters import WorldParameters
from pipelines.sandbox.phenology import SEASON_END

_MARGIN_M = 3_000.0  # scenes reach over the region's edge, where the corners of the rotated zone grids lie


@dataclass(frozen=True)
class Parcels:
    """Attributes of the parcels, one row each; the second half of the rows are their river parts.

    ``S`` seasons: one per year and one after, because winter crops are sown the autumn before.

    Attributes:
        x, y: seed of the parcel, metres.
        classes: ``(n, S)`` finest class code.
        switch_day: ``(n, S)`` day of the season's year from which the next season's cover is there.
        delay_days: ``(n, S)`` climate, local field and sowing jitter together.
        height_m: ``(n, S)`` mean canopy height.
        vigour: ``(n, S)`` factor on the green cover.
        cut_phase, catch_crop, mown: ``(n, S)`` of mown and early-harvested land.
        spectral: ``(n, 4)`` log factors on visible, near infrared, shortwave and background.
        wetness: ``(n,)`` standing soil moisture, about 0 to 1.
        rows: ``(n,)`` True where planting rows show.
        row_angle: ``(n,)`` radians.
        radar_db: ``(n, 2)`` offsets of VV and VH.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    classes: NDArray[np.uint8]
    switch_day: NDArray[np.float32]
    delay_days: NDArray[np.float32]
    height_m: NDArray[np.float32]
    vigour: NDArray[np.float32]
    cut_phase: NDArray[np.float32]
    catch_crop: NDArray[np.bool_]
    mown: NDArray[np.bool_]
    spectral: NDArray[np.float32]
    wetness: NDArray[np.float32]
    rows: NDArray[np.bool_]
    row_angle: NDArray[np.float32]
    radar_db: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.x)


class World:
    """Relief, rivers, parcels and their history.

    Args:
        parameters: see :class:`WorldParameters`.
    """

    def __init__(self, parameters: WorldParameters) -> None:
        self.parameters = p = parameters
        crs = f"+proj=tmerc +lat_0={p.centre_lat} +lon_0={p.centre_lon} +ellps=WGS84 +units=m"
        self.crs = crs
        self._relief = NoiseField(p.seed, "relief", p.relief_wavelength_m, p.relief_octaves, gain=0.47)
        self._ridges = NoiseField(p.seed, "ridges", p.relief_wavelength_m * 0.8, 4, gain=0.45, ridged=True)
        self._river = NoiseField(p.seed, "river", p.river_wavelength_m, 3, gain=0.35)
        self._warp = (NoiseField(p.seed, "warp-x", 900, 2), NoiseField(p.seed, "warp-y", 900, 2))
        self._height = NoiseField(p.seed, "canopy", 45, 3, gain=0.7)
        self._season = NoiseField(p.seed, "season", p.field_wavelength_m, 2)
        self._tree, self._seeds = self._lay_parcels()
        self.parcels = self._settle()

    # ---- places -------------------------------------------------------------------------------------------------

    def to_plane(self, x: NDArray, y: NDArray, epsg: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Plane coordinates of points given in any CRS (x is easting or longitude)."""
        east, north = _transformer(epsg, self.crs, False).transform(x, y)
        return np.asarray(east), np.asarray(north)

    def from_plane(
        self, x: NDArray | float, y: NDArray | float, epsg: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The inverse of :meth:`to_plane`."""
        east, north = _transformer(epsg, self.crs, True).transform(x, y)
        return np.asarray(east), np.asarray(north)

    # ---- fields -------------------------------------------------------------------------------------------------

    def river_distance_m(self, x: NDArray, y: NDArray) -> NDArray[np.float32]:
        """Distance to the middle of the nearest river, to first order."""
        step = 25.0
        here = self._river(x, y)
        slope = np.hypot(self._river(x + step, y) - here, self._river(x, y + step) - here) / step
        return np.abs(here - 0.15) / np.maximum(slope, 0.15 / self.parameters.river_wavelength_m)

    def elevation_m(self, x: NDArray, y: NDArray) -> NDArray[np.float32]:
        """Ground height above the ellipsoid, metres."""
        p = self.parameters
        valley = np.abs(self._river(x, y) - 0.15)
        rise = 1 - np.exp(-((valley / 0.5) ** 2))
        rough = 0.30 * self._relief(x, y) + 0.12 * self._ridges(x, y)
        tilt = 0.25 * np.asarray(y, np.float32) / p.height_m
        return (p.base_elevation_m + p.relief_m * (0.55 * rise + rough * (0.35 + 0.65 * rise) + tilt)).astype(
            np.float32
        )

    def locate(self, x: NDArray, y: NDArray) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Parcel of every point, and the distance to the parcel's edge in metres (negative never)."""
        shape = np.broadcast(x, y).shape
        u, v = self._warped(np.ravel(x), np.ravel(y))
        distance, index = self._tree.query(np.column_stack([u, v]), k=2, workers=1)
        first, second = self._seeds[index[:, 0]], self._seeds[index[:, 1]]
        gap = np.maximum(np.hypot(*(first - second).T), 1.0)
        edge = ((distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * gap)).astype(np.float32)
        river = self.river_distance_m(np.ravel(x), np.ravel(y)) - self.parameters.river_half_width_m
        parcel = index[:, 0] + np.where(river < 0, len(self._seeds), 0)
        return parcel.astype(np.int32).reshape(shape), np.minimum(edge, np.abs(river)).reshape(shape)

    def height_factor(self, x: NDArray, y: NDArray) -> NDArray[np.float32]:
        """How the canopy varies inside a stand, about 1."""
        return np.clip(1 + 0.16 * self._height(x, y), 0.3, 1.6)

    def class_at(self, x: NDArray, y: NDArray, year: int) -> NDArray[np.uint8]:
        """Finest class code at points in a year."""
        return self.parcels.classes[self.locate(x, y)[0], self.season_index(year)]

    def height_at(self, x: NDArray, y: NDArray, year: int) -> NDArray[np.float32]:
        """Canopy height at points in a year, metres."""
        parcel, _ = self.locate(x, y)
        return self.parcels.height_m[parcel, self.season_index(year)] * self.height_factor(x, y)

    def season_index(self, year: int) -> int:
        """Column of a year in the attributes of the parcels.

        Raises:
            ValueError: for a year the world does not have.
        """
        if year not in self.parameters.years:
            raise ValueError(f"the sandbox has the years {self.parameters.years}, not {year}")
        return self.parameters.years.index(year)

    # ---- making -------------------------------------------------------------------------------------------------

    def _warped(self, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        # Rotated and stretched so that fields are longer than wide, bent a little so that edges are not straight.
        angle = np.deg2rad(24.0)
        bent_x, bent_y = x + 9 * self._warp[0](x, y), y + 9 * self._warp[1](x, y)
        stretch = np.sqrt(self.parameters.parcel_stretch)
        u = (bent_x * np.cos(angle) + bent_y * np.sin(angle)) / stretch
        v = (-bent_x * np.sin(angle) + bent_y * np.cos(angle)) * stretch
        return u, v

    def _lay_parcels(self) -> tuple[cKDTree, NDArray]:
        p = self.parameters
        rng = generator(p.seed, "parcels")
        reach = np.hypot(p.width_m / 2 + _MARGIN_M, p.height_m / 2 + _MARGIN_M) * np.sqrt(p.parcel_stretch)
        count = int(np.ceil(reach / p.parcel_spacing_m))
        lattice = np.stack(np.meshgrid(np.arange(-count, count), np.arange(-count, count)), -1).reshape(-1, 2)
        # Every other row is shifted by half, as bricks are, so that four fields seldom meet in a point.
        points: NDArray = lattice + np.where(lattice[:, 1:] % 2 == 0, [[0.25, 0]], [[-0.25, 0]])
        points = (points + rng.uniform(-p.parcel_jitter, p.parcel_jitter, points.shape)) * p.parcel_spacing_m
        points = points[rng.random(len(points)) > p.parcel_dropped]
        stretch, angle = np.sqrt(p.parcel_stretch), np.deg2rad(24.0)
        a, b = points[:, 0] * stretch, points[:, 1] / stretch
        x, y = a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)
        keep = (np.abs(x) < p.width_m / 2 + _MARGIN_M) & (np.abs(y) < p.height_m / 2 + _MARGIN_M)
        self._seed_xy = np.column_stack([x, y])[keep]
        return cKDTree(points[keep]), points[keep]

    def _settle(self) -> Parcels:
        p = self.parameters
        rng = generator(p.seed, "settle")
        x, y = self._seed_xy.T
        n, seasons = len(x), len(p.years) + 1
        inside = (np.abs(x) < p.width_m / 2) & (np.abs(y) < p.height_m / 2)
        first = self._first_classes(x, y, inside, rng)
        classes = self._history(first, rng, seasons)
        age = np.clip(rng.beta(2.2, 2.0, n), 0.03, 1)
        height = np.stack([_canopy_height(classes[:, s], age, rng, s) for s in range(seasons)], axis=1)
        # A stand keeps its height where its class stays; a year of growth is below what can be seen.
        for s in range(1, seasons):
            same = (classes[:, s] == classes[:, s - 1]) & (classes[:, s] < FIRST_CROP)
            height[same, s] = height[same, s - 1]
        switch = np.full((n, seasons), 0.0)
        for name in CLASSES:
            end = SEASON_END.get(name, 342.0)
            switch[classes == CODE[name]] = end
        switch += rng.normal(0, 6, switch.shape)
        local = np.repeat(p.field_days_sd * self._season(x, y)[:, None], seasons, 1)
        climate = p.climate_days_per_sd * y / (p.height_m / np.sqrt(12))
        delay = climate[:, None] + local + rng.normal(0, p.sowing_days_sd, (n, seasons))
        mature = delay * np.where(classes >= FIRST_CROP, 1.0, 0.8)
        low = _standard(self.elevation_m(x, y), inside)
        wetness = np.clip(0.4 - 0.12 * low + rng.normal(0, 0.12, n), 0, 1)
        vigour = np.clip(rng.normal(1, p.vigour_sd, (n, seasons)), 0.55, 1.18)
        # Managed rows are usual in orchards, common in beet and maize, and found in plantations too.
        chance = {"orchard": 0.65, "shrub": 0.12, "broadleaf_forest": 0.10, "conifer_forest": 0.15}
        share = np.array([chance.get(name, 0.10 if name in CROPS else 0.0) for name in CLASSES])
        rows = rng.random(n) < share[classes[:, 0]]
        spectral = rng.normal(0, 1, (n, 4)) * np.array([1.0, 0.8, 0.9, p.soil_sd / p.spectral_sd]) * p.spectral_sd
        half = {
            "x": x,
            "y": y,
            "classes": classes,
            "switch_day": switch,
            "delay_days": mature,
            "height_m": height,
            "vigour": vigour,
            "cut_phase": rng.uniform(0, 58, (n, seasons)),
            "catch_crop": rng.random((n, seasons)) < 0.4,
            "mown": np.repeat((rng.random(n) < 0.55)[:, None], seasons, 1),
            "spectral": spectral,
            "wetness": wetness,
            "rows": rows,
            "row_angle": rng.uniform(0, np.pi, n),
            "radar_db": rng.normal(0, 0.9, (n, 2)),
        }
        whole = {key: np.concatenate([value, value]) for key, value in half.items()}
        whole["classes"][n:] = CODE["water"]
        whole["switch_day"][n:] = 342
        whole["height_m"][n:] = 0
        whole["rows"][n:] = False
        kinds = {"classes": np.uint8, "catch_crop": bool, "mown": bool, "rows": bool, "x": float, "y": float}
        return Parcels(**{key: value.astype(kinds.get(key, np.float32)) for key, value in whole.items()})

    def _first_classes(self, x: NDArray, y: NDArray, inside: NDArray, rng: np.random.Generator) -> NDArray[np.int64]:
        """Land cover where land, water and people would have it, calibrated to the shares of the legend."""
        seed = self.parameters.seed
        e = _standard(self.elevation_m(x, y), inside)
        m = NoiseField(seed, "moisture", 2200, 3)(x, y) - 0.6 * e
        urban = NoiseField(seed, "towns", 2600, 3)(x, y) - 0.5 * np.abs(e)
        wild = NoiseField(seed, "wild", 1700, 3)(x, y) + 0.5 * e
        farm = NoiseField(seed, "farm", 2000, 2)(x, y)
        suit = {
            "water": 1.6 * m - 1.2 * e,
            "built_up": 2.2 * urban,
            "bare": 0.9 * wild - 0.9 * m,
            "broadleaf_forest": 1.5 * wild + 0.3 * m,
            "conifer_forest": 1.4 * wild + 0.5 * e - 0.2 * m,
            "grassland": 0.6 * m - 0.5 * farm,
            "shrub": 1.1 * wild - 0.5 * farm,
            "wetland": 1.7 * m - 0.9 * e,
            "orchard": 0.9 * farm + 0.4 * e - 0.4 * m,
            "crop": 1.2 * farm - 0.8 * wild,
        }
        names = list(SHARES)
        score = np.column_stack([suit[name] for name in names]) + 0.8 * rng.gumbel(size=(len(x), len(names)))
        target = np.array([SHARES[name] for name in names])
        for _ in range(60):
            chosen = score[inside].argmax(axis=1)
            share = np.bincount(chosen, minlength=len(names)) / inside.sum()
            score += 0.4 * np.log((target + 1e-3) / (share + 1e-3))
        chosen = score.argmax(axis=1)
        crop = FIRST_CROP + rng.choice(len(CROPS), len(x), p=[CROP_SHARES[name] for name in CROPS])
        natural = np.array([CODE.get(name, 0) for name in names])
        return np.where(np.array(names)[chosen] == "crop", crop, natural[chosen])

    def _history(self, first: NDArray, rng: np.random.Generator, seasons: int) -> NDArray[np.uint8]:
        """Classes of every season: rotation, clearing, building, ploughing and laying down to grass."""
        p = self.parameters
        classes = [first]
        weights = np.array([CROP_SHARES[name] for name in CROPS])
        alfalfa = CODE["alfalfa"]
        for _ in range(1, seasons):
            last = classes[-1].copy()
            crop = last >= FIRST_CROP
            drawn = FIRST_CROP + rng.choice(len(CROPS), len(last), p=weights)
            again = np.where(drawn == last, FIRST_CROP + rng.choice(len(CROPS), len(last), p=weights), drawn)
            stay = rng.random(len(last)) < np.where(last == alfalfa, 0.6, p.monoculture_rate)
            fate = rng.random(len(last))
            grass, forest = last == CODE["grassland"], np.isin(last, [CODE["broadleaf_forest"], CODE["conifer_forest"]])
            now = np.where(crop & ~stay, again, last)
            now = np.where(grass & (fate < p.ploughing_rate), drawn, now)
            now = np.where(crop & (fate > 1 - 0.4 * p.ploughing_rate), CODE["grassland"], now)
            now = np.where((crop | grass) & (fate > 0.5) & (fate < 0.5 + p.building_rate), CODE["built_up"], now)
            felled = forest & (fate < p.clearing_rate)
            now = np.where(felled, np.where(rng.random(len(last)) < 0.7, CODE["bare"], CODE["shrub"]), now)
            classes.append(now)
        return np.stack(classes, axis=1).astype(np.uint8)


def _canopy_height(classes: NDArray, age: NDArray, rng: np.random.Generator, season: int) -> NDArray[np.float64]:
    """Mean canopy height by class and age of the stand (0 to 1), metres."""
    noise = rng.normal(0, 1, len(classes))
    height = np.zeros(len(classes))
    table = {
        "broadleaf_forest": 3 + 25 * age**0.8 + 1.0 * noise,
        "conifer_forest": 3 + 30 * age**0.8 + 1.2 * noise,
        "orchard": 3.6 + 1.8 * age + 0.5 * noise,
        "shrub": 1.0 + 2.2 * age + 0.3 * noise,
        "wetland": 0.5 + 1.2 * age + 0.2 * noise,
        "built_up": 0.5 + 5.0 * age + 0.8 * noise,
        "grassland": 0.25 + 0.1 * noise,
        "bare": 0.05 + 0.05 * noise,
        "maize": 2.2 + 0.25 * noise,
        "sunflower": 1.6 + 0.2 * noise,
        "rapeseed": 1.3 + 0.15 * noise,
        "winter_wheat": 0.85 + 0.1 * noise,
        "winter_barley": 0.9 + 0.1 * noise,
        "sugar_beet": 0.5 + 0.05 * noise,
        "alfalfa": 0.5 + 0.1 * noise,
    }
    for name, value in table.items():
        height = np.where(classes == CODE[name], value, height)
    return np.clip(height, 0, None)


def _standard(values: NDArray, inside: NDArray) -> NDArray:
    return (values - values[inside].mean()) / (values[inside].std() + 1e-6)


@lru_cache(maxsize=32)
def _transformer(epsg: int, crs: str, inverse: bool) -> Transformer:
    return Transformer.from_crs(crs if inverse else epsg, epsg if inverse else crs, always_xy=True)


@lru_cache(maxsize=2)
def world_of(parameters: WorldParameters) -> World:
    """The world of some parameters, made once per process."""
    return World(parameters)
