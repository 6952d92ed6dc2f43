"""What a caller can get wrong, said in one line before any tensor is touched."""

from __future__ import annotations

import torch
from torch import Tensor

from aef_model.batch import Batch, FrameSequence, Target, TextTarget
from aef_model.config import GRID_PX, ModelConfig


def _expect(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _shape(x: Tensor) -> str:
    return "x".join(map(str, x.shape))


def check_frames(cfg: ModelConfig, frames: FrameSequence) -> tuple[int, int, int]:
    """Batch size, rows and columns of the frames.

    Raises:
        ValueError: naming the source, what is wrong and what is expected.
    """
    inputs = {source.name: source for source in cfg.inputs}
    _expect(bool(frames.pixels), f"no frames of any source; give at least one of {', '.join(inputs)}")
    size: tuple[int, int, int] | None = None
    for name, pixels in frames.pixels.items():
        _expect(name in inputs, f"source {name!r} is no input of this model; its inputs are {', '.join(inputs)}")
        _expect(name in frames.time_ms and name in frames.present, f"{name}: time_ms and present must be given as well")
        bands = inputs[name].bands
        _expect(isinstance(pixels, Tensor), f"{name}: pixels must be a tensor, not {type(pixels).__name__}")
        _expect(pixels.ndim == 5, f"{name}: pixels must be (B, N, C, H, W), not {_shape(pixels)}")
        _expect(pixels.dtype == torch.float32, f"{name}: pixels must be normalised float32, not {pixels.dtype}")
        batch, count, channels, rows, cols = pixels.shape
        _expect(batch > 0, f"{name}: no patch is given")
        _expect(
            channels == len(bands), f"{name}: {channels} bands given, the model has {len(bands)}: {', '.join(bands)}"
        )
        _expect(
            rows % GRID_PX == 0 and cols % GRID_PX == 0 and rows > 0 and cols > 0,
            f"{name}: patch of {rows}x{cols} pixels; sides must be multiples of {GRID_PX}",
        )
        size = size or (batch, rows, cols)
        _expect((batch, rows, cols) == size, f"{name}: {batch} patches of {rows}x{cols}, other sources have {size}")
        for what, x, dtype in (
            ("time_ms", frames.time_ms[name], torch.int64),
            ("present", frames.present[name], torch.bool),
        ):
            _tensor(f"{name}: {what}", x)
            _expect(x.shape == (batch, count), f"{name}: {what} must be {batch}x{count}, not {_shape(x)}")
            _expect(x.dtype == dtype, f"{name}: {what} must be {dtype}, not {x.dtype}")
    for what, given in (("time_ms", frames.time_ms), ("present", frames.present)):
        _expect(
            set(given) == set(frames.pixels), f"{what} is of {sorted(given)}, pixels are of {sorted(frames.pixels)}"
        )
    _expect(any(x.shape[1] for x in frames.pixels.values()), "no source has any frame; a patch needs one slot at least")
    assert size is not None
    return size


def _tensor(name: str, x: object) -> None:
    _expect(isinstance(x, Tensor), f"{name} must be a tensor, not {type(x).__name__}")


def check_period(name: str, period_ms: Tensor, batch: int) -> None:
    """Check a valid period of each sequence, ``(B, 2)``.

    Raises:
        ValueError: naming the period.
    """
    _tensor(name, period_ms)
    _expect(period_ms.shape == (batch, 2), f"{name} must be {batch}x2 (start, end), not {_shape(period_ms)}")
    _expect(period_ms.dtype == torch.int64, f"{name} must be int64 epoch milliseconds, not {period_ms.dtype}")
    if _visible(period_ms):
        _expect(bool((period_ms[:, 1] > period_ms[:, 0]).all()), f"{name} ends before it starts in some sequence")


def _visible(x: Tensor) -> bool:
    """Whether numbers can be looked at for nothing: elsewhere than on a CPU looking would cost a wait."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def check_target(cfg: ModelConfig, name: str, target: Target, size: tuple[int, int, int]) -> None:
    """Check one target against its source.

    Raises:
        ValueError: naming the source, what is wrong and what is expected.
    """
    source = cfg.source(name)
    for what in ("values", "weight", "time_ms", "geometry"):
        _tensor(f"{name}: target {what}", getattr(target, what))
    sequences, rows, cols = size
    _expect(
        2 * source.shift_px < min(rows, cols),
        f"{name}: patch of {rows}x{cols} pixels, too small for shift_px {source.shift_px}",
    )
    batch = len(target.time_ms) if target.time_ms.ndim else 0
    _expect(
        batch > 0 and batch % sequences == 0,
        f"{name}: {batch} target times; there must be equally many for each of the {sequences} sequences",
    )
    if not source.extent:
        rows = cols = 1
    expected: tuple[int, ...] = (batch, len(source.bands), rows, cols)
    if source.classes is not None:
        expected = (batch, rows, cols)
        _expect(target.values.dtype == torch.int64, f"{name}: class indices must be int64, not {target.values.dtype}")
        if _visible(target.values) and target.values.numel():
            most = int(target.values.max())
            _expect(most < source.outputs, f"{name}: class index {most} given, the model has {source.outputs} classes")
    else:
        _expect(target.values.is_floating_point(), f"{name}: target values must be float, not {target.values.dtype}")
    for what, x in (("values", target.values), ("weight", target.weight)):
        wanted = "x".join(map(str, expected))
        _expect(tuple(x.shape) == expected, f"{name}: target {what} must be {wanted}, not {_shape(x)}")
    _expect(target.weight.is_floating_point(), f"{name}: target weight must be float, not {target.weight.dtype}")
    if _visible(target.weight):
        sound = torch.isfinite(target.weight) & (target.weight >= 0)
        _expect(bool(sound.all()), f"{name}: target weights must be finite and not negative")
    _expect(
        target.time_ms.shape == (batch,) and target.time_ms.dtype == torch.int64,
        f"{name}: target time_ms must be {batch} int64, not {_shape(target.time_ms)} {target.time_ms.dtype}",
    )
    told = (batch, source.geometry_dim)
    _expect(
        tuple(target.geometry.shape) == told,
        f"{name}: target geometry must be {told[0]}x{told[1]}, not {_shape(target.geometry)}",
    )


def check_text(cfg: ModelConfig, text: TextTarget, size: tuple[int, int, int]) -> None:
    """Check the texts of a batch.

    Raises:
        ValueError: naming what is wrong and what is expected.
    """
    batch, rows, cols = size
    for what in ("vector", "row", "col", "present"):
        _tensor(f"text: {what}", getattr(text, what))
    _expect(cfg.text_dim > 0, "the batch has texts but the model was built without a text head (text_dim 0)")
    _expect(
        tuple(text.vector.shape) == (batch, cfg.text_dim),
        f"text: vector must be {batch}x{cfg.text_dim}, not {_shape(text.vector)}",
    )
    _expect(text.vector.is_floating_point(), f"text: vector must be float, not {text.vector.dtype}")
    for what, x, dtype in (
        ("row", text.row, torch.int64),
        ("col", text.col, torch.int64),
        ("present", text.present, torch.bool),
    ):
        _expect(
            x.shape == (batch,) and x.dtype == dtype,
            f"text: {what} must be {batch} {dtype}, not {_shape(x)} {x.dtype}",
        )
    if _visible(text.vector):
        sound = torch.isfinite(text.vector).all(dim=1) | ~text.present
        _expect(bool(sound.all()), "text: a vector that is present must be finite")
    for what, x, side in (("row", text.row, rows), ("col", text.col, cols)):
        if _visible(x):
            _expect(
                bool(((x >= 0) & (x < side)).all()), f"text: a {what} lies outside the patch of {rows}x{cols} pixels"
            )


def check_batch(cfg: ModelConfig, batch: Batch) -> tuple[int, int, int]:
    """Check a training batch; batch size, rows and columns.

    Raises:
        ValueError: naming what is wrong.
    """
    size = check_frames(cfg, batch.frames)
    stride = cfg.uniformity_stride
    _expect(stride <= min(size[1:]), f"uniformity_stride {stride} is more than a side of {size[1]}x{size[2]} pixels")
    check_period("support_ms", batch.support_ms, size[0])
    for name, period in batch.periods_ms.items():
        check_period(f"period {name!r}", period, size[0])
    users = {**{name: target.period for name, target in batch.targets.items()}}
    if batch.text is not None:
        users["text"] = batch.text.period
        check_text(cfg, batch.text, size)
    for name, used in users.items():
        have = ", ".join(batch.periods_ms) or "none"
        _expect(used in batch.periods_ms, f"{name} refers to period {used!r}; the batch has {have}")
    for name, target in batch.targets.items():
        check_target(cfg, name, target, size)
    if batch.site is not None:
        _tensor("site", batch.site)
        whole = not batch.site.is_floating_point() and batch.site.shape == (size[0],)
        _expect(whole, f"site must be {size[0]} whole numbers, not {_shape(batch.site)} {batch.site.dtype}")
    return size
