"""Which number format a stage works in."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from pipelines.stages import precision
from pipelines.stages.precision import autocast, multiplies_bfloat16, takes_bfloat16, warn_of_imitation

CPU = torch.device("cpu")


@pytest.mark.parametrize(("bfloat16_s", "taken"), [(0.2, True), (0.8, True), (0.9, False), (1.0, False), (60.0, False)])
def test_a_cpu_is_told_by_the_faster_product(monkeypatch, bfloat16_s, taken):
    monkeypatch.setattr(precision, "_product_s", {torch.bfloat16: bfloat16_s, torch.float32: 1.0}.get)
    assert multiplies_bfloat16.__wrapped__("cpu") is taken


def test_a_processor_without_the_instructions_is_found_out():
    cpuinfo = Path("/proc/cpuinfo")
    told = cpuinfo.read_text() if cpuinfo.exists() else ""
    if "flags" not in told or "avx512_bf16" in told or "amx_bf16" in told:
        pytest.skip("not an x86 processor without instructions for bfloat16")
    assert multiplies_bfloat16.__wrapped__("cpu") is False


@pytest.mark.parametrize("native", [True, False])
def test_auto_follows_the_device_and_the_others_do_as_they_say(monkeypatch, native):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device_type: native)
    assert takes_bfloat16("auto", CPU) is native
    assert takes_bfloat16("bfloat16", CPU) and not takes_bfloat16("float32", CPU)
    with autocast("auto", CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize(
    ("setting", "on_gpu", "said"), [("bfloat16", False, 1), ("bfloat16", True, 0), ("auto", False, 0)]
)
def test_a_slow_choice_is_told(monkeypatch, caplog, setting, on_gpu, said):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda device_type: False)
    with caplog.at_level(logging.WARNING):
        warn_of_imitation("train.precision", setting, on_gpu)
    assert len(caplog.records) == said and all("train.precision" in record.message for record in caplog.records)
