"""What benchmarks/model.py times and counts: models of a size, batches of a shape, one case in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from aef_model import AlphaEarth, Batch, FrameSequence, ModelConfig, Target, TextTarget
from benchmarks.plain_stp import PlainSTP

Row = dict[str, Any]
PAPER_FRAMES = {"sentinel2": 65, "sentinel1": 17, "landsat": 21}  # 103
YEAR_MS = (1_609_459_200_000, 1_640_995_200_000)  # 2021

# Two models of about the plain one's 97.7 M parameters, Sentinel-2 only. "equal widths" has its widths; "coarse" puts
# its parameters on the L/16 grid, where one costs 128 operations a frame and not 512 (L/8) or 8192 (L/2).
ONE_SOURCE: dict[str, Any] = {"inputs": ("sentinel2",), "targets": (), "text_dim": 0, "time_heads": 8}
EQUAL_SIZE: dict[str, dict[str, Any]] = {
    "equal widths": {
        "precision_dim": 48, "time_dim": 256, "space_dim": 512, "blocks": 13, "space_heads": 8, **ONE_SOURCE,
    },
    "coarse": {
        "precision_dim": 32, "time_dim": 192, "space_dim": 1024, "blocks": 6, "space_heads": 16,
        "exchange_up": "bilinear", **ONE_SOURCE,
    },
}  # fmt: skip


def make_frames(cfg: ModelConfig, counts: dict[str, int], side: int, batch: int, device: str) -> FrameSequence:
    """Random frames through 2021."""
    pixels, time_ms, present = {}, {}, {}
    for source in cfg.inputs:
        n = counts[source.name]
        pixels[source.name] = torch.randn(batch, n, len(source.bands), side, side, device=device)
        step = (YEAR_MS[1] - YEAR_MS[0]) // n
        time_ms[source.name] = (YEAR_MS[0] + step * torch.arange(n, device=device)).expand(batch, n).contiguous()
        present[source.name] = torch.ones(batch, n, dtype=torch.bool, device=device)
    return FrameSequence(pixels, time_ms, present)


def make_batch(cfg: ModelConfig, counts: dict[str, int], side: int, batch: int, device: str) -> Batch:
    """A full training batch: every source has a target, every sequence a text; two periods, as in a sandbox run."""
    year = torch.zeros(batch, 2, dtype=torch.int64, device=device)
    year[:, 0], year[:, 1] = YEAR_MS
    targets = {}
    for source in cfg.sources:
        rows = cols = side if source.extent else 1
        if source.classes is not None:
            values = torch.zeros(batch, rows, cols, dtype=torch.int64, device=device)
            weight = torch.ones(batch, rows, cols, device=device)
        else:
            values = torch.randn(batch, len(source.bands), rows, cols, device=device)
            weight = torch.ones_like(values)
        period = "imaging" if source.is_input else "rest"
        geometry = torch.zeros(batch, source.geometry_dim, device=device)
        targets[source.name] = Target(values, weight, year[:, 0] + 86_400_000, period, geometry)
    text = None
    if cfg.text_dim:
        place = torch.zeros(batch, dtype=torch.int64, device=device)
        there = torch.ones(batch, dtype=torch.bool, device=device)
        text = TextTarget(torch.randn(batch, cfg.text_dim, device=device), place, place, there, "rest")
    site = torch.arange(batch, device=device)
    frames = make_frames(cfg, counts, side, batch, device)
    return Batch(frames, year, {"imaging": year, "rest": year.clone()}, targets, text, site)


def counted(work: Callable[[], Any]) -> int:
    """Operations of one call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def kept_bytes(model: AlphaEarth, batch: Batch) -> int:
    """Bytes that one forward pass keeps for its backward pass, parameters aside."""
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # holding the tensors keeps their storages' identities

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage()._cdata not in own:
            kept[x.untyped_storage()._cdata] = x
        return x

    def keep_inputs(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        for x in tree_leaves(arguments):  # what a part starts from when it is computed again
            if isinstance(x, torch.Tensor):
                keep(x)

    starts = [*model.blocks, *model.projectors.values(), model.pooling, *model.decoders.values()]
    hooks = [part.register_forward_pre_hook(keep_inputs) for part in starts]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model(batch, step=0)
    for hook in hooks:
        hook.remove()
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def peak_rss() -> int:
    """Bytes of this process's largest resident set so far (not its parent's, as getrusage would say after a fork)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Seconds of each call after one to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def plain_work(task: str, frames: int, side: int) -> tuple[torch.nn.Module, Callable[[], Any], int]:
    """The plain model, one call of its task on the CPU, and the call's operations."""
    torch.manual_seed(0)
    model = PlainSTP()
    pixels, target = torch.randn(1, frames, 5, side, side), torch.randn(1, 5, side, side)
    days = torch.arange(frames)[None] * 365.0 / frames
    if task == "embed":
        model.eval()
        call = lambda: model.embed(pixels, days)  # noqa: E731
        shape = (torch.empty(1, frames, 5, side, side, device="meta"), torch.empty(1, frames, device="meta"))
        with torch.device("meta"), torch.no_grad():
            return model, torch.no_grad()(call), counted(lambda: PlainSTP().embed(*shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        model(pixels, days, target).backward()
        optimizer.step()

    with torch.device("meta"):
        imagined = torch.empty(1, frames, 5, side, side), torch.empty(1, frames), torch.empty(1, 5, side, side)
        return model, step, counted(lambda: PlainSTP()(*imagined).backward())


def our_work(
    cfg: ModelConfig, task: str, counts: dict[str, int], side: int, batch: int, device: str, compiled: bool, amp: bool
) -> tuple[AlphaEarth, Callable[[], Any], int]:
    """Our model, one call of its task and the call's operations without any recomputation."""
    torch.manual_seed(0)
    model = AlphaEarth(cfg).to(device)
    inputs = make_batch(cfg, counts, side, batch, device)
    with torch.device("meta"):
        shape = AlphaEarth(ModelConfig.from_dict({**cfg.to_dict(), "checkpoint_blocks": False}))
    imagined = make_batch(cfg, counts, side, batch, "meta")
    if compiled:
        model.encode, model.summarise = torch.compile(model.encode), torch.compile(model.summarise)  # type: ignore
    precision = torch.autocast(device, torch.bfloat16) if amp else nullcontext()
    if task == "embed":
        model.eval()

        def embed() -> torch.Tensor:
            with precision:
                return model.embed(inputs.frames, inputs.support_ms)

        return model, embed, counted(lambda: shape.eval().embed(imagined.frames, imagined.support_ms))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with precision:
            total = model(inputs, step=0).total
        total.backward()
        optimizer.step()

    return model, step, counted(lambda: shape(imagined, step=0).total.backward())


def run_case(case: Row) -> Row:
    """Time and memory of one case in this process."""
    before = peak_rss()
    device = case["device"]
    if case["model"] == "plain":
        model, work, flop = plain_work(case["task"], case["frames"], case["side"])
    else:
        settings = dict(EQUAL_SIZE.get(case["model"], {}), consistency_every=1, **case.get("settings", {}))
        cfg = ModelConfig.named("base" if case["model"] in EQUAL_SIZE else case["model"], **settings)
        share = case["frames"] / sum(PAPER_FRAMES.values())
        counts = {name: max(round(n * share), 1) for name, n in PAPER_FRAMES.items()}
        if case["model"] in EQUAL_SIZE:
            counts = {"sentinel2": case["frames"]}
        model, work, flop = our_work(
            cfg, case["task"], counts, case["side"], case["batch"], device, case["compiled"], case["amp"]
        )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(work, device, case["repeats"])
    middle = statistics.median(seconds)
    result = {
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "gflop": flop / 1e9,
        "seconds": middle,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "gflop_per_s": flop / 1e9 / middle,
        "peak_gib": peak_rss() / 2**30,
        "peak_above_import_gib": (peak_rss() - before) / 2**30,
    }
    if device == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    result["mib_per_gflop"] = result["peak_gib"] * 1024 / result["gflop"]
    return result
