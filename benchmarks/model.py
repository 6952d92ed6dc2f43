"""What the model costs: parameters, work, memory, time, against a plain model of its size and against the machine.

    python -m benchmarks.model                      every table that this machine can make
    python -m benchmarks.model --tables sizes       parameters and counted work of each size; needs no time to speak of
    python -m benchmarks.model --tables plain       about 100 M parameters on this CPU, beside benchmarks/plain_stp.py
    python -m benchmarks.model --tables attention   both forms of attention, with and without gradient
    python -m benchmarks.model --tables device      base on an accelerator: share of its peak, tiles/s, memory by batch
    python -m benchmarks.model --tables operators   the costliest operators and how far they are from their limit

Work is counted by torch (two operations a multiply-add, matrix products and convolutions), on the device of shapes
without numbers, so it is the same everywhere. Every timed case is a process of its own, so that its peak of resident
memory is its own; ``--frames``, ``--side``, ``--threads`` and ``--repeats`` make it smaller or longer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from aef_model import AlphaEarth, Batch, FrameSequence, ModelConfig, Target, TextTarget
from aef_model.attention import attend
from benchmarks.plain_stp import PlainSTP
from pipelines.stages.precision import multiplies_bfloat16

Row = dict[str, Any]
PAPER_FRAMES = {"sentinel2": 65, "sentinel1": 17, "landsat": 21}  # 103
YEAR_MS = (1_609_459_200_000, 1_640_995_200_000)  # 2021
CORE_KM2 = 0.96**2  # of a 128 px patch, what a map keeps (SPEC 5.1)
ALLOCATOR = {"THP_MEM_ALLOC_ENABLE": "1"}  # every case allocates as the workers of the stages do: in huge pages

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


# -- what is measured --------------------------------------------------------------------------------------------------


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


def sizes(options: argparse.Namespace) -> list[Row]:
    """Parameters, work and kept activations of every size, for 103 frames of 128 x 128 px."""
    rows = []
    for name in ("tiny", "small", "base", "large"):
        cfg = ModelConfig.named(name, consistency_every=1)
        with torch.device("meta"):
            model = AlphaEarth(cfg)
            saving = AlphaEarth(ModelConfig.named(name, consistency_every=1, checkpoint_blocks=True))
        batch = make_batch(cfg, PAPER_FRAMES, 128, 1, "meta")
        train = counted(lambda model=model, batch=batch: model(batch, step=0).total.backward())
        embed = counted(lambda model=model, batch=batch: model.eval().embed(batch.frames, batch.support_ms))
        model.train()
        rows.append(
            {
                "size": name,
                "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
                "embed_tflop": embed / 1e12,
                "train_tflop": train / 1e12,
                "kept_gib": kept_bytes(model, batch) / 2**30,
                "kept_checkpointed_gib": kept_bytes(saving, batch) / 2**30,
            }
        )
    return rows


# -- one case, in a process of its own ---------------------------------------------------------------------------------


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


def in_own_process(case: Row, threads: int) -> Row:
    """One case's row, with the command that repeats it; a case that fails says why and stops nothing."""
    command = ["-m", "benchmarks.model", "--threads", str(threads), "--case", json.dumps(case)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=os.environ | ALLOCATOR)
    settings = "".join(f"{name}={value} " for name, value in ALLOCATOR.items())
    shown = f"{settings}python -m benchmarks.model --threads {threads} --case '{json.dumps(case)}'"
    result = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.stderr[-300:]}
    return {**case, **result, "command": shown}


def case(model: str, task: str, options: argparse.Namespace, **changes: Any) -> Row:
    base = {
        "model": model, "task": task, "frames": options.frames, "side": options.side, "batch": 1, "device": "cpu",
        "compiled": False, "amp": False, "repeats": options.repeats,
    }  # fmt: skip
    return {**base, **changes}


# -- tables ------------------------------------------------------------------------------------------------------------


def plain(options: argparse.Namespace) -> list[Row]:
    """About 100 M parameters, one sequence on the CPU; ratios are to the plain model in float32."""
    in_bfloat16 = [{"amp": True}] if multiplies_bfloat16("cpu") else []  # imitated, a case would take an hour
    cases = [case("plain", "embed", options)]
    for name in EQUAL_SIZE:
        cases += [case(name, "embed", options, **changes) for changes in ({}, *in_bfloat16)]
        cases += [case(name, "embed", options, compiled=True, **x) for x in in_bfloat16 or [{}] if options.compile]
    cases += [case("plain", "train", options)]
    for name in EQUAL_SIZE:
        saving = {"settings": {"checkpoint_blocks": True}}
        cases += [case(name, "train", options), case(name, "train", options, **saving)]
        cases += [case(name, "train", options, **saving, **changes) for changes in in_bfloat16]
    rows = []
    for each in cases:
        row = in_own_process(each, options.threads)
        rival = next((x for x in rows if x["model"] == "plain" and x["task"] == each["task"]), row)
        if "seconds" in row and "seconds" in rival:
            row["times_faster"] = rival["seconds"] / row["seconds"]
            row["memory_per_flop_ratio"] = row["mib_per_gflop"] / rival["mib_per_gflop"]
        rows.append(row)
    return rows


# (B, cells, heads, frames, depth) over time and (frames, heads, cells, depth) in space
SHAPES: dict[str, tuple[tuple[int, ...], bool]] = {
    "time, tiny, training": ((16, 4, 4, 22, 16), False),
    "time, tiny, a year at 192 px": ((1, 576, 4, 71, 16), False),
    "time, base, 103 frames": ((1, 256, 8, 103, 64), False),
    "space, tiny, a year at 192 px": ((71, 4, 144, 24), True),
    "space, base, 103 frames": ((103, 16, 64, 64), True),
}


def attention(options: argparse.Namespace) -> list[Row]:
    """Milliseconds of both forms: what `auto` (aef_model/attention.py) picks from for each device and number format."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for what, (shape, in_space) in SHAPES.items():
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v = (torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for _ in range(3))
            keys = torch.rand(*shape[:-3], 1, 1, shape[-2], device=device) < 0.9
            bias = torch.randn(shape[-3], shape[-2], shape[-2], device=device) if in_space else None
            row: Row = {"attention": what, "device": device, "dtype": str(dtype).removeprefix("torch.")}
            for form in ("matmul", "fused"):
                call = lambda form=form, q=q, k=k, v=v, keys=keys, bias=bias: attend(q, k, v, keys, form, bias)  # noqa: E731
                row[f"{form}_ms"] = min(timed(torch.no_grad()(call), device, options.repeats)) * 1e3
                both = timed(lambda call=call: call().sum().backward(), device, options.repeats)
                row[f"{form}_with_backward_ms"] = min(both) * 1e3
            row["command"] = f"python -m benchmarks.model --tables attention --threads {options.threads}"
            rows.append(row)
    return rows


def peaks(device: str) -> dict[str, float]:
    """Measured limits: float32 and bfloat16 matrix products in operations a second, and bytes a second of a copy."""
    n = 8192 if device == "cuda" else 1024
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.randn(n, n, device=device).to(dtype)
        found[name] = 2 * n**3 / min(timed(lambda a=a: a @ a, device, 5))
    x = torch.empty(2**28 if device == "cuda" else 2**25, device=device)
    y = torch.empty_like(x)
    found["bytes"] = 2 * x.nbytes / min(timed(lambda: y.copy_(x), device, 5))
    return found


def device(options: argparse.Namespace) -> list[Row]:
    """The accelerator (or, to see that it works, this CPU): share of the measured matrix peak, tiles and memory."""
    where = "cuda" if torch.cuda.is_available() else "cpu"
    limit = peaks(where)["bfloat16"]
    frames, side = (103, 128) if where == "cuda" else (options.frames, options.side)
    rows = []
    for task in ("embed", "train"):
        for compiled in (False, True) if options.compile or where == "cuda" else (False,):
            for batch in (1, 2, 4, 8, 16) if where == "cuda" else (1, 2):
                settings = {"settings": {"checkpoint_blocks": True}} if task == "train" and batch > 2 else {}
                row = in_own_process(
                    case(
                        options.size, task, options, device=where, frames=frames, side=side, batch=batch, amp=True,
                        compiled=compiled, **settings,
                    ),
                    options.threads,
                )  # fmt: skip
                if "seconds" in row:
                    row["share_of_peak"] = row["gflop"] * 1e9 / row["seconds"] / limit
                    row["tiles_per_s"] = batch / row["seconds"]
                    row["km2_per_s"] = batch * CORE_KM2 * (side / 128) ** 2 / row["seconds"]
                rows.append(row)
                if "failed" in row:
                    break  # larger batches need more memory still
    return rows


def operators(options: argparse.Namespace) -> list[Row]:
    """Where the time of one embedding goes, and each operator's share of what the machine can do."""
    from torch.profiler import ProfilerActivity, profile

    where = "cuda" if torch.cuda.is_available() else "cpu"
    limits = peaks(where)
    share = (103 if where == "cuda" else options.frames) / 103
    counts = {name: max(round(n * share), 1) for name, n in PAPER_FRAMES.items()}
    side = 128 if where == "cuda" else options.side
    _, work, _ = our_work(ModelConfig.named(options.size), "embed", counts, side, 1, where, False, True)
    work()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if where == "cuda" else [])
    with profile(activities=activities, record_shapes=True, with_flops=True) as seen:
        work()
        synchronise(where)
    sums: dict[str, dict[str, float]] = {}
    for event in seen.key_averages(group_by_input_shape=True):
        own = event.self_device_time_total if where == "cuda" else event.self_cpu_time_total
        row = sums.setdefault(event.key, {"seconds": 0.0, "flop": 0.0, "bytes": 0.0, "calls": 0})
        values = sum(_product(shape) for shape in event.input_shapes if shape and isinstance(shape[0], int))
        row["seconds"] += own / 1e6
        row["flop"] += event.flops
        row["bytes"] += 2 * values * event.count  # bfloat16, inputs only: a lower bound of what is moved
        row["calls"] += event.count
    total = sum(row["seconds"] for row in sums.values())
    rows = []
    for name, row in sorted(sums.items(), key=lambda item: -item[1]["seconds"])[:8]:
        if row["seconds"] == 0:
            continue
        rows.append(
            {
                "operator": name,
                "device": where,
                "size": options.size,
                "calls": int(row["calls"]),
                "share_of_time": row["seconds"] / total,
                "share_of_matrix_peak": row["flop"] / row["seconds"] / limits["bfloat16"],
                "share_of_copy_rate": row["bytes"] / row["seconds"] / limits["bytes"],
                "command": f"python -m benchmarks.model --tables operators --size {options.size}",
            }
        )
    return rows


def _product(shape: list[int]) -> int:
    n = 1
    for side in shape:
        n *= side
    return n


TABLES = {"sizes": sizes, "plain": plain, "attention": attention, "device": device, "operators": operators}


def show(rows: list[Row]) -> str:
    """Columns by name; commands below, one a row."""
    names = list(dict.fromkeys(key for row in rows for key in row if key not in ("command", "repeats", "failed")))
    cells = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = ["  ".join(x.rjust(w) for x, w in zip(line, widths, strict=True)) for line in cells]
    lines += [f"failed: {row['failed']}" for row in rows if "failed" in row]
    return "\n".join(lines + ["  " + x for x in dict.fromkeys(row["command"] for row in rows if "command" in row)])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    if isinstance(value, dict):
        return ",".join(value)
    return "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=TABLES, help="default: all; 'device' only with an accelerator")
    parser.add_argument("--size", default="base", help="of tables 'device' and 'operators'")
    parser.add_argument("--frames", type=int, default=16, help="on a CPU")
    parser.add_argument("--side", type=int, default=128, help="pixels, on a CPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="compiled cases on a CPU too (minutes of compiling)")
    parser.add_argument("--case", type=json.loads, help="one case as printed below a table")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        print(json.dumps(run_case(options.case)))
        return
    names = options.tables or [x for x in TABLES if x != "device" or torch.cuda.is_available()]
    found = {}
    print(f"torch {torch.__version__}, {options.threads} threads, accelerator: "
          f"{torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")  # fmt: skip
    for name in names:
        found[name] = TABLES[name](options)
        print(f"\n{name}: {(TABLES[name].__doc__ or '').splitlines()[0]}\n{show(found[name])}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
