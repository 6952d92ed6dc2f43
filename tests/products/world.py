"""Small tiles, and a storage that dies or stumbles at a chosen write."""

import uuid

import numpy as np

from pipelines.grid import Period, Tile, transformer
from pipelines.products import Cost, Provenance, SceneRef, TileProduct, ensure_zone
from pipelines.storage import Storage

PX = 64
EPSG = 32631
YEAR = Period.calendar_year(2020)
LON, LAT = 2.5, 48.0


def memory():
    return Storage(f"memory://{uuid.uuid4().hex}")


def tile_at(lon=LON, lat=LAT, px=PX, epsg=EPSG):
    east, north = transformer(4326, epsg).transform(lon, lat)
    return Tile.at(epsg, int(north // (px * 10)), int(east // (px * 10)), px)


def unit_vectors(px=PX, seed=0):
    """Smooth fields of unit vectors, as embeddings are."""
    r = np.random.default_rng(seed)
    y, x = np.mgrid[:px, :px] / px
    waves = [np.sin(2 * np.pi * (a * x + b * y) + c) for a, b, c in r.uniform(0, 3, (64, 3))]
    vectors = np.stack(waves, axis=-1) + r.normal(0, 0.1, (px, px, 64))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def product(tile=None, period=YEAR, seed=0, px=PX, nudge=False):
    """A tile with a hole; ``nudge`` changes single codes by one, as another accelerator would."""
    tile = tile or tile_at(px=px)
    counts = np.full((px, px), 7, np.uint16)
    counts[: px // 8, : px // 4] = 0
    made = TileProduct.from_vectors(
        tile, period, unit_vectors(px, seed), {"sentinel2": counts, "sentinel1": counts // 7}
    )
    if nudge:
        r = np.random.default_rng(1)
        codes = made.embeddings.astype(np.int16)
        change = (r.random(codes.shape) < 0.003) & (np.abs(codes) < 127)
        made.embeddings[...] = (codes + change).astype(np.int8)
    return made


def provenance(**changes):
    fields = {
        "model_id": "tiny@1",
        "model_digest": "m0del",
        "code_digest": "c0de",
        "parameters": {"margin_px": 16},
        "inputs": (
            SceneRef("S2A_1", "sentinel2", "sentinel-2-l2a", "https://example.org/items/S2A_1"),
            SceneRef("S1A_1", "sentinel1", "sentinel-1-rtc"),
        ),
    }
    return Provenance(**{**fields, **changes})


def prepare(storage, periods=(YEAR,), epsg=EPSG, px=PX, model_digest="m0del"):
    ensure_zone(
        storage,
        epsg,
        px,
        periods,
        model_uri="https://example.org/model.json",
        model_digest=model_digest,
        source_uris=["https://example.org/sentinel-2-l2a"],
    )


COST = Cost(seconds=2.5, peak_memory_bytes=10**9, device="cpu")


class Killed(BaseException):
    """Stands for SIGKILL: nothing that handles ordinary errors may catch it."""


class Mortal(Storage):
    """A storage whose process dies before, or right after, its ``fatal``-th change of what is stored."""

    def __init__(self, root, fatal, after=False):
        super().__init__(root)
        self.fatal, self.after, self.changes = fatal, after, 0

    def _step(self, method, *args):
        self.changes += 1
        if self.changes == self.fatal and not self.after:
            raise Killed
        result = method(*args)
        if self.changes == self.fatal:
            raise Killed
        return result

    def write_bytes_atomic(self, path, data):
        return self._step(super().write_bytes_atomic, path, data)

    def create_exclusive(self, path, data):
        return self._step(super().create_exclusive, path, data)

    def delete(self, path):
        return self._step(super().delete, path)
