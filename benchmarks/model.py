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
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from aef_model import AlphaEarth, ModelConfig
from aef_model.attention import attend
from benchmarks.model_cases import EQUAL_SIZE, PAPER_FRAMES, Row, counted, kept_bytes, make_batch, run_case, timed
from benchmarks.operators import operators, peaks
from pipelines.stages.precision import multiplies_bfloat16

CORE_KM2 = 0.96**2  # of a 128 px patch, what a map keeps (SPEC 5.1)
ALLOCATOR = {"THP_MEM_ALLOC_ENABLE": "1"}  # every case allocates as the workers of the stages do: in huge pages


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
