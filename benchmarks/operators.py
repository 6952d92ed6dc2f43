"""The costliest operators of one embedding, and how far they are from what the machine can do."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from aef_model import ModelConfig
from benchmarks.model_cases import PAPER_FRAMES, Row, our_work, synchronise, timed


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


# The profiler counts a convolution's work at the first, which only hands over to one of the others.
CONVOLUTION = "aten::conv2d"
CONVOLVING = ("aten::mkldnn_convolution", "aten::cudnn_convolution", "aten::_slow_conv2d_forward")


def by_operator(averages: Iterable[Any], where: str) -> dict[str, dict[str, float]]:
    """What each operator took, over all shapes of its inputs.

    The profiler tells an accelerator's time twice: of the operator that launched a kernel, and of the kernel, in a row
    of its own that lies on the device. Only operators count here, each with what it launched itself.

    Args:
        averages: of a profile, grouped by input shape.
        where: "cuda" for the time on the accelerator, "cpu" for that of the processor.

    Returns:
        By name ``seconds`` without those of operators within it, ``flop`` (transposed convolutions have none),
        ``bytes`` (bfloat16 inputs only: a lower bound of what is moved) and ``calls``.
    """
    sums: dict[str, dict[str, float]] = {}
    for event in averages:
        if event.device_type != DeviceType.CPU or event.is_user_annotation:
            continue
        own = event.self_device_time_total if where == "cuda" else event.self_cpu_time_total
        values = sum(math.prod(shape) for shape in event.input_shapes if shape and isinstance(shape[0], int))
        row = sums.setdefault(event.key, {"seconds": 0.0, "flop": 0.0, "bytes": 0.0, "calls": 0})
        row["seconds"] += own / 1e6
        row["flop"] += event.flops
        row["bytes"] += 2 * values * event.count
        row["calls"] += event.count
    if CONVOLUTION in sums and (workers := [sums[name] for name in CONVOLVING if name in sums]):
        max(workers, key=lambda row: row["seconds"])["flop"] += sums[CONVOLUTION]["flop"]
        sums[CONVOLUTION]["flop"] = 0.0
    return sums


def operators(options: argparse.Namespace) -> list[Row]:
    """Where the time of one embedding goes, and each operator's share of what the machine can do."""
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
    sums = by_operator(seen.key_averages(group_by_input_shape=True), where)
    total = sum(row["seconds"] for row in sums.values())
    return [
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
        for name, row in sorted(sums.items(), key=lambda item: -item[1]["seconds"])[:8]
        if row["seconds"] > 0
    ]
