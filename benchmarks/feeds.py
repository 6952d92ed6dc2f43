"""Ways from files of sequences to batches in memory, for benchmarks/reading.py."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.readers import DAY_MS, EPSG, LEFT, NOISE, PATCH, TOP
from pipelines.grid import Window


def build_shards(folder: Path, sequences: int) -> None:
    """Shards of our format and plain Parquet of the same sequences."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.grid import Period
    from pipelines.sequence import RasterFrames, Sequence
    from pipelines.shards import write_shard
    from pipelines.sources.sentinel2 import ALL_BANDS
    from pipelines.storage import Storage

    rng = np.random.default_rng(2)
    count_, bands, size = 24, len(ALL_BANDS), PATCH
    period = Period.calendar_year(2021)
    y, x = np.mgrid[:size, :size]
    storage = Storage(str(folder))
    (folder / "plain").mkdir(parents=True, exist_ok=True)
    per_shard = 8
    for shard in range(-(-sequences // per_shard)):
        parts, payloads = [], []
        for index in range(shard * per_shard, min((shard + 1) * per_shard, sequences)):
            ground = 2000 + 600 * np.sin((x + 9 * index) / 25) + 500 * np.cos(y / 17)
            values = ground + rng.normal(0, NOISE, (count_, bands, size, size))
            values = values.clip(1).astype(np.uint16)
            time_ms = period.start_ms + np.arange(count_, dtype=np.int64) * 15 * DAY_MS
            raster = RasterFrames(
                values=values,
                nodata=0.0,
                weight=np.full((count_, size, size), 255, np.uint8),
                time_ms=time_ms,
                valid_ms=np.stack([time_ms, time_ms + 1], axis=1),
                scale=np.full((count_, bands), 1e-4),
                offset=np.zeros((count_, bands)),
                geometry=np.empty((count_, 0), np.float32),
                scene_ids=tuple(f"s{frame}" for frame in range(count_)),
            )
            window = Window(EPSG, LEFT + index * size * 10, TOP, size, size)
            parts.append(Sequence(f"q{index}", window, period, "train", {"sentinel2": raster}))
            payloads.append(values.tobytes())
        write_shard(storage, f"shards/train/{shard:03d}.shard.parquet", parts, {}, code_digest="x")
        table = pa.table({"payload": pa.array(payloads, pa.large_binary())})
        pq.write_table(
            table, folder / "plain" / f"{shard:03d}.parquet", row_group_size=1, compression="NONE", use_dictionary=False
        )


def feed_config(folder: Path, passes: int, sequences: int) -> Any:
    from pipelines.config import Config
    from pipelines.sources.sentinel2 import ALL_BANDS

    batch = 4
    return Config.model_validate(
        {
            "root": str(folder),
            "area": {"bbox": [4.0, 50.0, 4.1, 50.1]},
            "periods": [["2021-01-01", "2022-01-01"]],
            "catalogs": {"here": {"kind": "static", "url": "/none"}},
            "sources": {"sentinel2": {"catalog": "here", "collections": ["any"], "bands": list(ALL_BANDS)}},
            "train": {
                "batch": batch,
                "workers": 1,
                "crop_px": PATCH,
                "steps_per_draw": 1,
                "steps": passes * sequences // batch,
                "max_frames": {"sentinel2": 65},
                "data_workers": 2,
            },
        }
    )


def measure_feed(folder: Path, method: str, sequences: int, passes: int) -> dict[str, Any]:
    """Uncompressed MB a second that arrive as batches of four; the first pass starts workers and is not counted."""
    import ray

    batches: Callable[[], Any]
    if method == "torch DataLoader, 2 workers":
        batches = lambda: torch_batches(folder)  # noqa: E731
    else:
        from pipelines.stages.session import quiet_ray_data

        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
                 object_store_memory=2 * 2**30)  # fmt: skip
        quiet_ray_data()
        batches = (lambda: ray_parquet(folder)) if method == "ray.data.read_parquet" else (lambda: ours_(folder))

    def ours_(folder: Path) -> Any:
        from pipelines.shards import open_shards
        from pipelines.stages.feed import Feed, pools_of
        from pipelines.storage import Storage

        config = feed_config(folder, 1, sequences)
        pools = pools_of(open_shards(Storage(str(folder)), "shards").metadata(), False)
        for raw in Feed(config, pools, 0, 1).batches(0):
            yield raw.inputs["sentinel2"].values, raw.targets["sentinel2"].values

    for _ in batches():
        pass
    start, seen = time.monotonic(), 0
    for _ in range(passes):
        for arrays in batches():
            seen += sum(array.nbytes for array in arrays)
    wall = time.monotonic() - start
    return {"method": method, "mb_per_s": seen / 1e6 / wall, "mb": seen / 1e6, "wall_s": wall}


def ray_parquet(folder: Path) -> Any:
    """Binary payloads through Ray Data's own reader, four to a batch."""
    import ray

    dataset = ray.data.read_parquet(str(folder / "plain"))
    for batch in dataset.iter_batches(batch_size=4, batch_format="numpy", prefetch_batches=2):
        yield [np.frombuffer(payload, np.uint16).reshape(24, 13, PATCH, PATCH).copy() for payload in batch["payload"]]


def torch_batches(folder: Path) -> Any:
    """The same payloads through a map-style torch DataLoader with two workers."""
    import torch

    loader = torch.utils.data.DataLoader(PlainRows(folder), batch_size=4, num_workers=2)
    for batch in loader:
        yield [batch.numpy()]


class PlainRows:
    """Rows of the plain Parquet files as arrays."""

    def __init__(self, folder: Path) -> None:
        import pyarrow.parquet as pq

        self.rows = [
            (path, row)
            for path in sorted((folder / "plain").glob("*.parquet"))
            for row in range(pq.ParquetFile(path).num_row_groups)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> NDArray:
        import pyarrow.parquet as pq

        path, row = self.rows[index]
        payload = pq.ParquetFile(path).read_row_group(row, use_threads=False)["payload"][0].as_buffer()
        return np.frombuffer(payload, np.uint16).reshape(24, 13, PATCH, PATCH).copy()


FEEDS = ("ray.data.read_parquet", "torch DataLoader, 2 workers", "ours")
