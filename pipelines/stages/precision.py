"""Number formats: bfloat16 where the device multiplies in it; elsewhere it is imitated, at a fraction of the speed."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

import torch

from pipelines.config import Precision

log = logging.getLogger(__name__)

SIDE = 256  # of the products that are timed: a millisecond in float32
FASTER = 1.2  # than float32 by at least so much, or there is nothing to gain


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of a forward pass under the setting "auto", "float32" or "bfloat16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=takes_bfloat16(precision, device))


def takes_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Whether a device works in bfloat16 under a setting."""
    return precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16(device.type))


def warn_of_imitation(key: str, precision: Precision, on_gpu: bool) -> None:
    """Say that a stage would crawl, where this machine's CPU is like those that it will run on."""
    if precision == "bfloat16" and not on_gpu and not multiplies_bfloat16("cpu"):
        log.warning("%s: bfloat16 is imitated by this CPU, up to 60 times slower than float32; set it to auto", key)


@lru_cache
def multiplies_bfloat16(device_type: str) -> bool:
    """Whether a kind of device has instructions for bfloat16.

    On a CPU the product of two matrices tells: with AVX-512's or AMX's instructions it takes half of float32's time
    or less; where they are lacking, from as long to sixty times as long.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu":
        return False
    return _product_s(torch.bfloat16) * FASTER < _product_s(torch.float32)


def _product_s(dtype: torch.dtype) -> float:
    """The least of several times, as others may use the core."""
    square = torch.ones(SIDE, SIDE, dtype=dtype)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        square @ square
        times.append(time.perf_counter() - start)
    return min(times)
