"""From scenes to frames: which scenes are pieces of one acquisition, which piece each pixel comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pipelines.coregister.engines import Engine
from pipelines.coregister.engines.base import beside, same_nodata
from pipelines.coregister.fetch import FailureKind, Request, Signers, fetch, signer_of
from pipelines.coregister.masks import hide, is_nodata, present, weight
from pipelines.coregister.reach import beyond_reach, reaches
from pipelines.coregister.warp import warp
from pipelines.grid import Window
from pipelines.scenes import Asset, Scene
from pipelines.sources.base import Kind, Source

# Crops of a batch of frames are held at once beside the result: this bounds them.
BATCH_BYTES = 96 * 2**20


@dataclass(frozen=True)
class ReadFailure:
    """A scene that could not be read, and why.

    Attributes:
        source, scene_id, href: which file of which scene.
        kind, reason: why.
        fallback: scenes of the same acquisition whose pixels were taken in its place, joined by "+"; empty: none.
    """

    source: str
    scene_id: str
    href: str
    kind: FailureKind
    reason: str
    fallback: str = ""


@dataclass(frozen=True)
class ReadDoubt:
    """A scene that was read and used although its pixels look wrong, and why."""

    source: str
    scene_id: str
    reason: str


@dataclass
class Layer:
    """The pixels of an acquisition that were stored with one scaling.

    Attributes:
        values: ``(C, H, W)``.
        weight: ``(H, W)``.
        scale, offset: ``(C,)``, of stored numbers.
        used: scenes that the pixels are from.
    """

    values: NDArray
    weight: NDArray[np.uint8]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    used: list[str]


@dataclass
class Frame:
    """One acquisition over one window.

    Its pieces may be stored with unlike scalings: rows of one Landsat Level-1 path differ by the sun's elevation, and a
    Sentinel-2 datatake may have been processed in part. Numbers are kept as they were stored, so each scaling has
    a layer of its own; a pixel is in one of them only.

    Attributes:
        pieces: its scenes that reach into the window, in order of preference: same zone first, then by the source's own
            rank, then the largest footprint, then the id. The order is the same for every window, so the winner of a
            pixel is too.
        time_ms, valid_ms: of the most preferred scene of the acquisition, whether or not it reaches into this window.
        values, weight: ``(S, C, H, W)`` and ``(S, H, W)``, where the layers' pixels are written, for S scalings.
        layers: one for each scaling, in order of preference; empty until a piece has been read.
        doubts: about the pieces used.
    """

    pieces: list[Scene]
    time_ms: int
    valid_ms: tuple[int, int]
    geometry: tuple[float, ...]
    values: NDArray
    weight: NDArray[np.uint8]
    layers: list[Layer] = field(default_factory=list)
    doubts: list[ReadDoubt] = field(default_factory=list)

    def measured(self, source: Source) -> NDArray[np.bool_] | None:
        """``(H, W)`` pixels that have a measurement; None before any was read."""
        found = [present(layer.values, source.nodata, source) for layer in self.layers]
        return np.logical_or.reduce(found) if found else None

    def missing(self, source: Source) -> bool:
        """Whether any pixel still lacks a measurement."""
        found = self.measured(source)
        return found is None or not found.all()

    def used_after(self, scene_id: str) -> list[str]:
        """The pieces used that are less preferred than one of them."""
        used = {name for layer in self.layers for name in layer.used}
        order = [piece.scene_id for piece in self.pieces]
        return [later for later in order[order.index(scene_id) + 1 :] if later in used]


@dataclass(frozen=True)
class Stack:
    """The frames of a window by time, and the arrays that they write into.

    Attributes:
        frames: by time.
        values: ``(N, C, H, W)`` for the N scalings of all frames; memory is taken only where one has written.
        weight: ``(N, H, W)``.
    """

    frames: list[Frame]
    values: NDArray
    weight: NDArray[np.uint8]

    def measured(self) -> tuple[list[tuple[Frame, Layer]], NDArray, NDArray[np.uint8]]:
        """Every layer with its frame, by time; their values and weights, moved together where some were not written."""
        kept: list[tuple[Frame, Layer]] = []
        place = 0
        for frame in self.frames:
            for index, layer in enumerate(frame.layers):
                if place + index != len(kept):
                    self.values[len(kept)], self.weight[len(kept)] = layer.values, layer.weight
                kept.append((frame, layer))
            place += len(frame.values)
        return kept, self.values[: len(kept)], self.weight[: len(kept)]


def group(scenes: Sequence[Scene], window: Window, source: Source) -> Stack:
    """Frames of the scenes that reach into a window, still without pixels."""
    for scene in scenes:
        if scene.source != source.name:
            raise ValueError(f"scene {scene.scene_id} is of source {scene.source}, not {source.name}")
    found = []
    for members in source.acquisitions(scene for scene in scenes if source.keep(scene)):
        ordered = sorted(members, key=lambda scene: _preference(scene, window.epsg, source))
        pieces = [scene for scene in ordered if scene.footprint is None or reaches(scene.footprint, window)]
        if pieces:
            found.append((ordered[0], pieces, len({scaling(piece, source) for piece in pieces})))
    found.sort(key=lambda one: (one[0].time_ms, one[0].scene_id))
    scalings = sum(count for *_, count in found)
    stack = Stack(
        [],
        np.empty((scalings, len(source.bands), *window.shape), source.dtype),
        np.empty((scalings, *window.shape), np.uint8),
    )
    start = 0
    for first, pieces, count in found:
        part = slice(start, start + count)
        values, weight = stack.values[part], stack.weight[part]
        stack.frames.append(Frame(pieces, first.time_ms, first.valid_ms, source.geometry(first), values, weight))
        start += count
    return stack


def scaling(scene: Scene, source: Source) -> tuple[tuple[float, float], ...]:
    """Scale and offset of every band; 1 and 0 of one that a scene has not."""
    assets = (scene.assets.get(band) for band in source.band_names)
    return tuple((1.0, 0.0) if asset is None else (asset.scale, asset.offset) for asset in assets)


def _preference(scene: Scene, epsg: int, source: Source) -> tuple[bool, tuple[float, ...], float, str]:
    zones = {asset.epsg for asset in scene.assets.values()}
    area = 0.0 if scene.footprint is None else round(scene.footprint.area, 6)
    return epsg not in zones, source.rank(scene, epsg), -area, scene.scene_id


def batches(frames: Sequence[Frame], window: Window, source: Source) -> Iterator[list[Frame]]:
    """Frames in runs whose crops fit into the memory bound (no file pixel smaller than the target's is counted)."""
    layers = len(source.bands) + len(source.mask_roles)
    size = max(1, layers * window.width_px * window.height_px * np.dtype(source.dtype).itemsize)
    step = max(1, BATCH_BYTES // size)
    for start in range(0, len(frames), step):
        yield list(frames[start : start + step])


def fill(
    frames: Sequence[Frame],
    window: Window,
    source: Source,
    engine: Engine,
    sign: Signers,
    threads: int,
) -> list[ReadFailure]:
    """Reads frames in place, piece after piece, until every pixel is measured or no piece is left."""
    lost: list[tuple[Frame, ReadFailure]] = []
    open_frames = list(frames)
    for rank in range(max((len(frame.pieces) for frame in frames), default=0)):
        open_frames = [frame for frame in open_frames if rank < len(frame.pieces) and frame.missing(source)]
        jobs = [
            (frame, frame.pieces[rank], _requests(frame.pieces[rank], window, source, sign)) for frame in open_frames
        ]
        fetch([request for _, _, wanted in jobs for request in wanted.values()], engine, threads=threads)

        def assemble(job: tuple[Frame, Scene, dict[str, Request]]) -> list[ReadFailure]:
            frame, scene, wanted = job
            broken = [
                ReadFailure(
                    source.name, scene.scene_id, request.asset.href, request.failure.kind, request.failure.reason
                )
                for request in wanted.values()
                if request.failure is not None
            ]
            if not broken:
                try:
                    _merge(frame, scene, wanted, window, source)
                except ValueError as error:  # numbers that the source cannot hold: this piece is of no use
                    href = next(iter(wanted.values())).asset.href
                    broken.append(ReadFailure(source.name, scene.scene_id, href, FailureKind.UNUSABLE, str(error)))
            return broken

        with ThreadPoolExecutor(min(threads, 4)) as pool:
            for (frame, _, _), broken in zip(jobs, pool.map(assemble, jobs), strict=True):
                lost += [(frame, failure) for failure in broken]
    return [replace(failure, fallback="+".join(frame.used_after(failure.scene_id))) for frame, failure in lost]


def _requests(scene: Scene, window: Window, source: Source, signers: Signers) -> dict[str, Request]:
    """Requests by band name and mask role, for the assets that a scene has."""
    wanted: dict[str, Request] = {}
    sign = signer_of(signers, scene)
    for band in source.band_names:
        if band in scene.assets:
            wanted[band] = Request(
                scene.assets[band], window, source.dtype, source.nodata, sign, footprint=scene.footprint
            )
    for role in source.mask_roles if wanted else ():
        if role in scene.assets:
            dtype = "uint16" if role == "qa_pixel" else "uint8"
            wanted[role] = Request(scene.assets[role], window, dtype, 0, sign, mask=True, footprint=scene.footprint)
    return wanted


def _merge(frame: Frame, scene: Scene, wanted: dict[str, Request], window: Window, source: Source) -> None:
    """Puts a piece's pixels where the frame has none yet."""
    nodata = np.dtype(source.dtype).type(source.nodata)
    values = np.empty_like(frame.values[0]) if frame.layers else frame.values[0]
    scale, offset = np.array(scaling(scene, source)).T
    for index, band in enumerate(source.band_names):
        request = wanted.get(band)
        if request is None or request.pixels is None:
            values[index] = nodata
        else:
            layer = warp(
                hide(request.pixels, source.unmeasured, request.file_nodata),
                request.origin,
                request.grid,
                window,
                request.file_nodata,
                nearest=source.kind is Kind.CLASSES,
            )
            values[index] = to_dtype(layer, request.file_nodata, source, request.asset)
            request.pixels = None
    if scene.footprint is not None and (outside := beyond_reach(scene.footprint, window)) is not None:
        values[:, outside] = nodata
    here = present(values, source.nodata, source)
    if not here.any():
        return
    if (said := source.contradiction(values, scale, offset)) is not None:
        raise ValueError(f"scene {scene.scene_id}: {said}")
    masks = {
        role: np.full(window.shape, beyond, request.dtype)  # the mask ends before the window
        if request.pixels is None
        else warp(request.pixels, request.origin, request.grid, window, beyond, nearest=True)
        for role, request in ((role, wanted.get(role)) for role in source.mask_roles)
        if request is not None
        for beyond in [source.beyond_mask.get(role, 0)]
    }
    trust = weight(source, values, scale, offset, masks)
    doubt = source.doubt(source, values, trust, scale, offset)
    before = frame.measured(source)
    if before is not None:
        here &= ~before
        if not here.any():
            return
    alike = (x for x in frame.layers if np.array_equal(x.scale, scale) and np.array_equal(x.offset, offset))
    if (joined := next(alike, None)) is not None:
        joined.values[:, here] = values[:, here]
        joined.weight[here] = trust[here]
        joined.used.append(scene.scene_id)
    else:
        if not here.all():
            values[:, ~here] = nodata
            trust[~here] = 0
        place = len(frame.layers)
        if place:
            frame.values[place] = values
        frame.weight[place] = trust
        kept = frame.values[place], frame.weight[place]
        frame.layers.append(Layer(*kept, scale, offset, [scene.scene_id]))
    if doubt is not None:
        frame.doubts.append(ReadDoubt(source.name, scene.scene_id, doubt))


def to_dtype(layer: NDArray, file_nodata: float, source: Source, asset: Asset) -> NDArray:
    """A band in the source's dtype and nodata.

    Raises:
        ValueError: stored numbers that the source's dtype cannot hold.
    """
    target = np.dtype(source.dtype)
    if layer.dtype == target and same_nodata(file_nodata, source.nodata):
        return layer
    missing = is_nodata(layer, file_nodata)
    measured = layer[~missing]
    if target.kind in "iu" and measured.size and not np.can_cast(layer.dtype, target):
        limits = np.iinfo(target)
        whole = layer.dtype.kind in "iu" or np.array_equal(measured, np.round(measured))
        if not whole or measured.min() < limits.min or measured.max() > limits.max:
            raise ValueError(
                f"{asset.href} holds {layer.dtype} numbers from {measured.min()} to {measured.max()}, which source "
                f"{source.name} ({target}) cannot hold; is it the right asset?"
            )
    out = np.where(missing, layer.dtype.type(0), layer).astype(target)
    if source.kind is not Kind.CLASSES:  # a class without a code of its own is none
        out[out == target.type(source.nodata)] = beside(source.nodata, target)
    out[missing] = target.type(source.nodata)
    return out
