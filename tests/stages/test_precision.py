"""Which number format a stage works in."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from pipelines.stages import precision
from pipelines.stages.precision import autocast, multiplies_bfloat16, takes_bfloat16, warn_of_imitation

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux" or not Path("/proc/cpuinfo").exists(), reason="asks Linux")
def test_a_cpu_multiplies_bfloat16_when_it_says_so():
    text = Path("/proc/cpuinfo").read_text()
    if "flags" not in text:
        pytest.skip("not an x86 processor")
    told = {flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()}
    multiplies_bfloat16.cache_clear()
    assert multiplies_bfloat16("cpu") == bool(told & {"avx512_bf16", "amx_bf16"})


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
