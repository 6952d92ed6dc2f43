"""Pictures of the report: arrays in, 8-bit RGB arrays or PNG bytes out. No files, no global drawing state."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipelines.evaluation.scores_io import Score

Rgb = NDArray[np.uint8]
EMPTY = (236, 238, 240)  # no data
INK, MUTED, GRID = "#1c2733", "#66727f", "#dde3e8"
ACCENT = "#0b7a75"
WORST = -0.25


def data_uri(png: bytes) -> str:
    """PNG bytes as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def png(image_HWC: Rgb, scale: int = 1) -> bytes:
    """An RGB array as PNG; whole-number scales repeat pixels and keep their edges sharp."""
    picture = Image.fromarray(np.ascontiguousarray(image_HWC))
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def shrink(array_HW: NDArray, most_px: int) -> NDArray:
    """Every n-th pixel, so that the longer side has at most ``most_px``."""
    step = max(1, -(-max(array_HW.shape[:2]) // most_px))
    return array_HW[::step, ::step]


def composite_rgb(bands_HW3: NDArray, limits: NDArray | None = None, percent: float = 2.0) -> Rgb:
    """Three bands as colours, each stretched between its percentiles (or given ``(3, 2)`` limits); NaN is empty."""
    image = np.asarray(bands_HW3, np.float32)
    valid = np.isfinite(image).all(-1)
    if limits is None:
        limits = stretch_limits([image], percent)
    low, high = limits[:, 0], limits[:, 1]
    scaled = np.clip((image - low) / np.maximum(high - low, 1e-9), 0, 1)
    out = np.full(image.shape, EMPTY, np.uint8)
    out[valid] = np.round(scaled[valid] ** 0.9 * 255)
    return out


def stretch_limits(images: Sequence[NDArray], percent: float = 2.0) -> NDArray[np.float64]:
    """``(3, 2)`` percentiles shared by several images, so that their colours can be compared."""
    pixels = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    pixels = pixels[np.isfinite(pixels).all(1)]
    if not len(pixels):
        return np.tile([0.0, 1.0], (images[0].shape[-1], 1))
    return np.percentile(pixels, [percent, 100 - percent], axis=0).T


def pca_rgb(maps: Sequence[NDArray[np.float32]], sample: int = 50_000) -> list[Rgb]:
    """Embedding maps as colours: the first three principal components over all maps together.

    The same vector has the same colour in every map. The sign of a component is fixed by its largest loading, so that
    two runs on one input give one picture.
    """
    flat = [image.reshape(-1, image.shape[-1]) for image in maps]
    valid = [np.isfinite(vectors).all(1) for vectors in flat]
    pixels = np.concatenate([vectors[ok] for vectors, ok in zip(flat, valid, strict=True)])
    if not len(pixels):
        return [np.full((*image.shape[:2], 3), EMPTY, np.uint8) for image in maps]
    pixels = pixels[:: max(1, len(pixels) // sample)].astype(np.float64)
    centre = pixels.mean(0)
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(pixels - centre, rowvar=False, ddof=0)))
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
    projected = (pixels - centre) @ axes
    low, high = np.percentile(projected, [1, 99], axis=0)
    out = []
    for image, vectors_PD, ok in zip(maps, flat, valid, strict=True):
        colours = np.full((len(vectors_PD), 3), EMPTY, np.uint8)
        scaled = ((vectors_PD[ok] - centre) @ axes - low) / np.maximum(high - low, 1e-9)
        colours[ok, : axes.shape[1]] = np.round(np.clip(scaled, 0, 1) * 255)
        out.append(colours.reshape(*image.shape[:2], 3))
    return out


def class_rgb(codes_HW: NDArray[np.integer], colours: Mapping[int, str], nodata: int = 0) -> Rgb:
    """Class codes as their legend's colours (``#rrggbb``); codes without one, and nodata, are empty."""
    out = np.full((*codes_HW.shape, 3), EMPTY, np.uint8)
    for code, colour in colours.items():
        if code != nodata:
            out[codes_HW == code] = tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return out


def heat_rgb(values_HW: NDArray[np.floating], low: float | None = None, high: float | None = None) -> Rgb:
    """Values from pale (low) to dark (high), by default between 0 and the 99th percentile; NaN is empty."""
    ok = np.isfinite(values_HW)
    out = np.full((*values_HW.shape, 3), EMPTY, np.uint8)
    if not ok.any():
        return out
    low = 0.0 if low is None else low
    high = float(np.percentile(values_HW[ok], 99)) if high is None else high
    scaled = np.clip((values_HW[ok] - low) / max(high - low, 1e-9), 0, 1)
    out[ok] = np.round(np.asarray(colormaps["YlOrRd"](scaled))[:, :3] * 255)
    return out


def default_colours(codes: Sequence[int]) -> dict[int, str]:
    """Distinct colours for classes that bring none."""
    table = [*colormaps["tab20"].colors, *colormaps["tab20b"].colors]  # type: ignore[attr-defined]
    return {
        code: "#" + "".join(f"{round(part * 255):02x}" for part in table[index % len(table)])
        for index, code in enumerate(codes)
    }


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def loss_curves(losses: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> bytes:
    """One small panel a loss term, steps across; the raw values pale and a running mean over them."""
    names = list(losses)
    columns = min(4, max(1, len(names)))
    rows = -(-len(names) // columns)
    figure = _figure(2.6 * columns, 1.9 * rows)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for index, name in enumerate(names):
        axis = axes.flat[index]
        steps, values = (np.asarray(part, np.float64) for part in losses[name])
        axis.plot(steps, values, color=ACCENT, alpha=0.28, linewidth=0.8)
        width = max(1, len(values) // 20)
        if width > 1:
            kernel = np.ones(width) / width
            axis.plot(
                np.convolve(steps, kernel, "valid"), np.convolve(values, kernel, "valid"), color=ACCENT, linewidth=1.5
            )
        axis.set_title(name, fontsize=8, color=INK, loc="left")
        axis.tick_params(labelsize=6.5, colors=MUTED, length=2)
        axis.grid(color=GRID, linewidth=0.5)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_color(GRID)
        if index >= len(names) - columns:
            axis.set_xlabel("step", fontsize=7, color=MUTED)
    return _save(figure)


def score_chart(scores: Sequence[Score], label: str, order: Sequence[str]) -> bytes:
    """One panel per number of shots; a dot and its interval for each feature set, ``order`` from top to bottom.

    Panels share one axis so that shots can be compared; values below -0.25 (an R2 of no use) lie at its edge.
    """
    shots = list(dict.fromkeys(score.shots for score in scores))
    panels = max(3, len(shots))  # equal text size in every chart of the page
    figure = _figure(10, 0.26 * len(order) + 0.75)
    axes = figure.subplots(1, panels, squeeze=False, sharey=True, sharex=True)[0]
    for axis, shot in zip(axes, shots, strict=False):
        for place, name in enumerate(order):
            for score in (score for score in scores if score.shots == shot and score.features == name):
                colour = ACCENT if name == "embedding" else ("#9aa5b1" if name == "untrained" else INK)
                if score.low is not None and score.high is not None:
                    span = np.maximum([score.low, score.high], WORST)
                    axis.plot(span, [place, place], color=colour, linewidth=1.6, alpha=0.55)
                size = 5 if name == "embedding" else 4
                axis.plot(max(score.mean, WORST), place, "o", color=colour, markersize=size)
        axis.set_title({"max": "max"}.get(str(shot), f"{shot}-shot"), fontsize=8, color=INK, loc="left")
        axis.set_xlabel(label, fontsize=7, color=MUTED)
    for axis in axes:
        axis.grid(axis="x", color=GRID, linewidth=0.5)
        axis.tick_params(labelsize=7, colors=MUTED, length=0)
        for side in ("top", "right", "left", "bottom"):
            axis.spines[side].set_visible(False)
    for axis in axes[len(shots) :]:
        axis.set_visible(False)
    axes[0].set_yticks(range(len(order)), [name.replace("_", " ") for name in order], color=INK)
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    return _save(figure)
