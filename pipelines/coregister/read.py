"""Reading a window: scenes of one source on the 10 m UTM grid, as an xarray dataset or as frames.

>>> dataset = read_window(scenes, window, source("sentinel2"))        # (time, band, y, x), native dtype
>>> sequence, failures = read_sequence(scenes_by_source, window, period, sources)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from pipelines.coregister.climate import read_climate
from pipelines.coregister.cut import cut_points, cut_rasters, cut_texts
from pipelines.coregister.engines import engine as engine_by_name
from pipelines.coregister.engines.blocks import BLOCK_CACHE_BYTES
from pipelines.coregister.engines.cog import BLOCKS
from pipelines.coregister.engines.scratch import empty_node_folder, node_scratch
from pipelines.coregister.fetch import Signers
from pipelines.coregister.frames import ReadDoubt, ReadFailure, Stack, batches, fill, group
from pipelines.coregister.gravity import read_gravity
from pipelines.coregister.lidar import read_points
from pipelines.coregister.terrain import read_terrain
from pipelines.coregister.texts import read_texts
from pipelines.grid import Period, Window, is_utm
from pipelines.scenes import Scene
from pipelines.sequence import PointSamples, RasterFrames, TextSamples
from pipelines.sequence import Sequence as SiteSequence
from pipelines.sources.base import Kind, Source

logger = logging.getLogger(__name__)

DEFAULT_ENGINE = "cog"
OnError = Callable[[ReadFailure], None]
OnDoubt = Callable[[ReadDoubt], None]


def keep_blocks(limit_bytes: int = BLOCK_CACHE_BYTES, scratch_bytes: int = 0) -> None:
    """How much is kept of compressed blocks that neighbouring windows share (engine ``cog``).

    Args:
        limit_bytes: in memory, by this process.
        scratch_bytes: on the local disk, by all processes of this user on this node; 0: nothing.
    """
    BLOCKS.limit_bytes = limit_bytes
    BLOCKS.scratch = node_scratch(scratch_bytes)


def warn(doubt: ReadDoubt) -> None:
    """Logs a doubt, with the scene's name."""
    logger.warning("%s %s is doubtful: %s", doubt.source, doubt.scene_id, doubt.reason)


def as_window(box: Window | GeoBox) -> Window:
    """A window from an odc-geo box.

    Raises:
        ValueError: the box is not north-up in a UTM zone with whole-metre pixels on the grid.
    """
    if isinstance(box, Window):
        return box
    epsg = box.crs.to_epsg() if box.crs is not None else None
    affine = box.affine
    numbers = (affine.a, affine.c, affine.f)
    if not is_utm(epsg) or affine.b or affine.d or affine.e != -affine.a or any(n != round(n) for n in numbers):
        raise ValueError(f"{box} is not a north-up box of whole-metre pixels in a UTM zone")
    assert epsg is not None
    return Window(epsg, round(affine.c), round(affine.f), box.shape.x, box.shape.y, round(affine.a))


def read_frames(
    scenes: Sequence[Scene],
    window: Window,
    source: Source,
    *,
    engine: str = DEFAULT_ENGINE,
    sign: Signers = None,
    threads: int = 8,
    on_doubt: OnDoubt = warn,
) -> tuple[RasterFrames | None, list[ReadFailure]]:
    """The frames of a gridded source over a window.

    Args:
        scenes: of this source; those that miss the window or that the source refuses are skipped.
        window: target; its pixels do not depend on its size or position.
        source: says bands, masks, and what is one acquisition.
        engine: "cog", "rasterio" or "stackstac"; the pixels are the same.
        sign: unsigned address to one that can be opened; one for all, or one for each catalog by name.
        threads: concurrent file reads.
        on_doubt: called for every scene that was used although its pixels look wrong; without it a warning is logged.

    Returns:
        The frames by time, None where nothing was measured; and the scenes that could not be read.
    """
    if source.kind is Kind.STATIC:
        return read_terrain(scenes, window, source, engine_by_name(engine), sign, threads)
    if source.kind not in (Kind.FRAMES, Kind.CLASSES):
        raise ValueError(f"source {source.name} ({source.kind}) is not read as images; use read_sequence")
    failures: list[ReadFailure] = []
    stack = group(scenes, window, source)
    for batch in batches(stack.frames, window, source):
        failures += fill(batch, window, source, engine_by_name(engine), sign, threads)
        for found in (found for frame in batch for found in frame.doubts):
            on_doubt(found)
    return _joined(stack, source), failures


def _joined(stack: Stack, source: Source) -> RasterFrames | None:
    kept, values, weight = stack.measured()
    if not kept:
        return None
    frames, layers = [frame for frame, _ in kept], [layer for _, layer in kept]
    return RasterFrames(
        values=values,
        nodata=float(source.nodata),
        weight=weight,
        time_ms=np.array([frame.time_ms for frame in frames], np.int64),
        valid_ms=np.array([frame.valid_ms for frame in frames], np.int64),
        scale=np.stack([layer.scale for layer in layers]),
        offset=np.stack([layer.offset for layer in layers]),
        geometry=np.array([frame.geometry for frame in frames], np.float32).reshape(len(frames), -1),
        scene_ids=tuple("+".join(layer.used) for layer in layers),
    )


def read_window(
    scenes: Sequence[Scene],
    window: Window | GeoBox,
    source: Source,
    *,
    engine: str = DEFAULT_ENGINE,
    sign: Signers = None,
    on_error: OnError | None = None,
    threads: int = 8,
) -> xr.Dataset:
    """The frames of a gridded source as a dataset; arguments as in :func:`read_frames`.

    Args:
        scenes: of this source.
        window: target grid.
        source: what is read.
        engine: "cog", "rasterio" or "stackstac".
        sign: unsigned address to one that can be opened; one for all, or one for each catalog by name.
        on_error: called for every scene that could not be read; without it a warning is logged.
        threads: concurrent file reads.

    Returns:
        Dimensions (time, band, y, x); variables ``values`` (native dtype) and ``weight`` (uint8, 0 or 255); coordinates
        ``time_ms``, ``valid_ms``, ``scale``, ``offset``, ``scene_ids``, ``geometry``. Empty along time where nothing
        was measured.
    """
    target = as_window(window)
    frames, failures = read_frames(scenes, target, source, engine=engine, sign=sign, threads=threads)
    for failure in failures:
        if on_error is not None:
            on_error(failure)
        else:
            logger.warning("%s %s not read (%s): %s", failure.source, failure.scene_id, failure.kind, failure.reason)
    return to_dataset(frames, target, source)


def to_dataset(frames: RasterFrames | None, window: Window, source: Source) -> xr.Dataset:
    """Frames as a labelled dataset; the inverse of :func:`to_frames`."""
    if frames is None:
        bands = len(source.bands)
        frames = RasterFrames(
            np.empty((0, bands, *window.shape), source.dtype),
            float(source.nodata),
            np.empty((0, *window.shape), np.uint8),
            np.empty(0, np.int64),
            np.empty((0, 2), np.int64),
            np.empty((0, bands)),
            np.empty((0, bands)),
            np.empty((0, len(source.geometry_names)), np.float32),
            (),
        )
    x, y = window.centres()
    return xr.Dataset(
        {
            "values": (("time", "band", "y", "x"), frames.values),
            "weight": (("time", "y", "x"), frames.weight),
        },
        coords={
            "time": frames.time_ms.astype("datetime64[ms]").astype("datetime64[ns]"),
            "band": list(source.band_names),
            "y": y,
            "x": x,
            "time_ms": ("time", frames.time_ms),
            "valid_ms": (("time", "bound"), frames.valid_ms),
            "scale": (("time", "band"), frames.scale),
            "offset": (("time", "band"), frames.offset),
            "scene_ids": ("time", np.array(frames.scene_ids, object)),
            "geometry": (("time", "geometry_name"), frames.geometry),
            "geometry_name": list(source.geometry_names),
        },
        attrs={
            "source": source.name,
            "nodata": frames.nodata,
            "crs": f"EPSG:{window.epsg}",
            "transform": tuple(window.transform)[:6],
        },
    )


def to_frames(dataset: xr.Dataset) -> RasterFrames:
    """A dataset of :func:`read_window` as frames."""
    return RasterFrames(
        values=dataset["values"].to_numpy(),
        nodata=float(dataset.attrs["nodata"]),
        weight=dataset["weight"].to_numpy(),
        time_ms=dataset["time_ms"].to_numpy(),
        valid_ms=dataset["valid_ms"].to_numpy(),
        scale=dataset["scale"].to_numpy(),
        offset=dataset["offset"].to_numpy(),
        geometry=dataset["geometry"].to_numpy(),
        scene_ids=tuple(str(name) for name in dataset["scene_ids"].to_numpy()),
    )


@dataclass
class Block:
    """Everything measured in one big window over one period, read once, to be cut into sites.

    Attributes:
        window, period: where and when.
        sources: what was read, by name.
        rasters, points, texts: as in a sequence, on the block's grid.
        climate: scenes of the sources without spatial extent, read per site: they hold for a point.
        sign: opens them.
        failures: scenes that could not be read.
        doubts: scenes that were used although their pixels look wrong.
    """

    window: Window
    period: Period
    sources: dict[str, Source]
    rasters: dict[str, RasterFrames]
    points: dict[str, PointSamples]
    texts: TextSamples | None
    climate: dict[str, list[Scene]]
    sign: Signers
    failures: list[ReadFailure]
    doubts: list[ReadDoubt] = field(default_factory=list)

    def sequence(self, window: Window, *, sequence_id: str | None = None, split: str = "train") -> SiteSequence:
        """The measurements of a window inside the block: the same, bit for bit, as reading that window alone.

        But for scenes whose numbers contradict the catalog: whether they do is judged by all that was read of them.
        """
        rasters = {}
        for name, frames in self.rasters.items():
            part = cut_rasters(frames, self.window, window, self.sources[name])
            if part is not None:
                rasters[name] = part
        for name, scenes in self.climate.items():
            read = read_gravity if name == "grace" else read_climate
            series, failures = read(scenes, window, self.period, self.sources[name], self.sign)
            self.failures += [failure for failure in failures if failure not in self.failures]
            if series is not None:
                rasters[name] = series
        points = {name: cut_points(samples, self.window, window) for name, samples in self.points.items()}
        texts = cut_texts(self.texts, self.window, window) if self.texts is not None else None
        return SiteSequence(
            sequence_id=sequence_id or f"{window.epsg}_{window.left_m}_{window.top_m}_{self.period.label}",
            window=window,
            period=self.period,
            split=split,
            rasters=rasters,
            points={name: samples for name, samples in points.items() if samples.row.size},
            texts=texts if texts is not None and texts.row.size else None,
        )


def read_block(
    scenes_by_source: Mapping[str, Sequence[Scene]],
    window: Window,
    period: Period,
    sources: Mapping[str, Source] | Sequence[Source],
    *,
    sign: Signers = None,
    engine: str = DEFAULT_ENGINE,
    threads: int | Mapping[str, int] = 8,
) -> Block:
    """Reads every source once over a window that holds many sites.

    Args:
        scenes_by_source: by source name; scenes outside the period are skipped.
        window: of the block.
        period: support period. Images are taken within it; maps and texts where their validity meets it, a map that
            never does by the edition nearest to it; elevation always.
        sources: what to read.
        sign: unsigned address to one that can be opened; one for all, or one for each catalog by name.
        engine: "cog", "rasterio" or "stackstac".
        threads: concurrent file reads; of each source by name, where archives allow unlike numbers.
    """
    listed = list(sources.values()) if isinstance(sources, Mapping) else list(sources)
    block = Block(window, period, {source.name: source for source in listed}, {}, {}, None, {}, sign, [])
    for source in listed:
        scenes = in_period(scenes_by_source.get(source.name, ()), period, source)
        if not scenes:
            continue
        if source.kind is Kind.SERIES:
            block.climate[source.name] = scenes
        elif source.kind is Kind.POINTS:
            samples, failures = read_points(scenes, window, period, source, sign)
            block.points[source.name] = samples
            block.failures += failures
        elif source.kind is Kind.TEXT:
            block.texts, failures = read_texts(scenes, window, period, source, sign)
            block.failures += failures
        else:
            at_once = threads if isinstance(threads, int) else threads[source.name]
            frames, failures = read_frames(
                scenes, window, source, engine=engine, sign=sign, threads=at_once, on_doubt=block.doubts.append
            )
            block.failures += failures
            if frames is not None:
                block.rasters[source.name] = frames
    return block


def read_sequence(
    scenes_by_source: Mapping[str, Sequence[Scene]],
    window: Window,
    period: Period,
    sources: Mapping[str, Source] | Sequence[Source],
    *,
    sign: Signers = None,
    engine: str = DEFAULT_ENGINE,
    threads: int | Mapping[str, int] = 8,
    sequence_id: str | None = None,
    split: str = "train",
) -> tuple[SiteSequence, list[ReadFailure]]:
    """Everything measured in one window over one period, and the scenes that could not be read.

    Arguments as in :func:`read_block`; for many neighbouring windows read one block and cut it.
    """
    block = read_block(scenes_by_source, window, period, sources, sign=sign, engine=engine, threads=threads)
    sequence = block.sequence(window, sequence_id=sequence_id, split=split)
    for found in block.doubts:
        warn(found)
    return sequence, block.failures


def in_period(scenes: Sequence[Scene], period: Period, source: Source) -> list[Scene]:
    """The scenes of a source that say something about a period."""
    if source.kind is Kind.STATIC:
        return list(scenes)
    if source.kind is Kind.FRAMES:
        return [scene for scene in scenes if period.contains(scene.time_ms)]
    meeting = [scene for scene in scenes if scene.valid_ms[0] < period.end_ms and period.start_ms < scene.valid_ms[1]]
    if meeting or not scenes or source.kind is not Kind.CLASSES:
        return meeting
    # SPEC 1.2: the nearest mapped year.
    middle = (period.start_ms + period.end_ms) // 2
    nearest = min(abs(scene.time_ms - middle) for scene in scenes)
    return [scene for scene in scenes if abs(scene.time_ms - middle) == nearest]


__all__ = [
    "Block",
    "OnError",
    "as_window",
    "empty_node_folder",
    "in_period",
    "keep_blocks",
    "read_block",
    "read_frames",
    "read_sequence",
    "read_window",
    "to_dataset",
    "to_frames",
]
