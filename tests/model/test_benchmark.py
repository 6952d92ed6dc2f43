"""The benchmarks run, and count what they say."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from aef_model import AlphaEarth, ModelConfig
from benchmarks import model_cases as bench
from benchmarks import operators, seams
from benchmarks.plain_stp import PlainSTP


def test_the_plain_model_has_the_size_and_work_of_the_public_one():
    """About 100 M parameters; 532 GFLOP to embed 16 frames of 128 x 128, 3195 for a training step."""
    with torch.device("meta"):
        model = PlainSTP()
        pixels, days, target = torch.empty(1, 16, 5, 128, 128), torch.empty(1, 16), torch.empty(1, 5, 128, 128)
    assert abs(sum(p.numel() for p in model.parameters()) / 100e6 - 1) < 0.05
    with torch.no_grad():
        assert abs(bench.counted(lambda: model.embed(pixels, days)) / 532e9 - 1) < 0.05
    assert abs(bench.counted(lambda: model(pixels, days, target).backward()) / 3195e9 - 1) < 0.05


@pytest.mark.parametrize("name", bench.EQUAL_SIZE)
def test_its_rivals_have_as_many_parameters(name):
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in model.parameters()) for model in (
            PlainSTP(), AlphaEarth(ModelConfig.named("base", **bench.EQUAL_SIZE[name])))]  # fmt: skip
    assert abs(sizes[1] / sizes[0] - 1) < 0.02


def test_plain_model_depends_on_pixels_and_dates():
    torch.manual_seed(0)
    model = PlainSTP(8, 16, 16, 2).eval()
    pixels, days = torch.randn(1, 3, 5, 16, 16), torch.tensor([[10.0, 100.0, 300.0]])
    code = model.embed(pixels, days)
    assert code.shape == (1, 8, 8, 64)
    torch.testing.assert_close(code.norm(dim=-1), torch.ones(1, 8, 8))
    assert not torch.allclose(code, model.embed(pixels, days + 50)) and not torch.allclose(
        code, model.embed(pixels * 2, days)
    )


@pytest.mark.parametrize("task", ["embed", "train"])
@pytest.mark.parametrize("settings", [{}, {"checkpoint_blocks": True}])
def test_a_case_is_measured(task, settings):
    case = {"model": "tiny", "task": task, "frames": 6, "side": 16, "batch": 1, "device": "cpu", "compiled": False,
            "amp": True, "repeats": 1, "settings": settings}  # fmt: skip
    row = bench.run_case(case)
    assert 1.1 < row["parameters_m"] < 1.3 and row["seconds"] > 0 and 0.1 < row["peak_gib"] < 64
    alone = bench.run_case({**case, "settings": {}})["gflop"]
    assert row["gflop"] == alone > 0  # what is recomputed is not counted twice


def test_recomputing_keeps_less():
    kept = []
    for saving in (False, True):
        cfg = ModelConfig.named("tiny", checkpoint_blocks=saving)
        with torch.device("meta"):
            model = AlphaEarth(cfg)
        counts = {"sentinel2": 4, "sentinel1": 2, "landsat": 2}
        kept.append(bench.kept_bytes(model, bench.make_batch(cfg, counts, 32, 1, "meta")))
    assert 0 < kept[1] < 0.5 * kept[0]


def event(key, device_type, device_us, cpu_us=0, shapes=(), flops=0, count=1, annotation=False):
    return SimpleNamespace(
        key=key, device_type=device_type, self_device_time_total=device_us, self_cpu_time_total=cpu_us,
        input_shapes=shapes, flops=flops, count=count, is_user_annotation=annotation,
    )  # fmt: skip


def test_time_on_an_accelerator_is_counted_once_by_the_operator_that_launched_it():
    events = [
        event("aten::linear", DeviceType.CPU, 0, cpu_us=30),
        event("aten::mm", DeviceType.CPU, 600, cpu_us=5, shapes=[[4, 8], [8, 2]], flops=128, count=2),
        event("aten::mm", DeviceType.CPU, 100, cpu_us=5, shapes=[[4, 8], [8, 1]], flops=64),
        event("aten::copy_", DeviceType.CPU, 300, cpu_us=5, shapes=[[10], []]),
        event("cudaLaunchKernel", DeviceType.CPU, 0, cpu_us=40, count=4),
        event("sm90_gemm", DeviceType.CUDA, 700, count=3),
        event("Memcpy DtoD", DeviceType.CUDA, 300),
        event("step", DeviceType.CUDA, 1000, annotation=True),
        event("step", DeviceType.CPU, 1000, cpu_us=100, annotation=True),
    ]
    found = operators.by_operator(events, "cuda")
    assert {name: row["seconds"] for name, row in found.items() if row["seconds"]} == pytest.approx(
        {"aten::mm": 7e-4, "aten::copy_": 3e-4}
    )
    assert found["aten::mm"] == pytest.approx({"seconds": 7e-4, "flop": 192, "bytes": 2 * (2 * 48 + 40), "calls": 3})
    assert sum(row["seconds"] for row in operators.by_operator(events, "cpu").values()) == pytest.approx(85e-6)


def test_the_work_of_a_convolution_is_credited_to_what_does_it():
    events = [
        event("aten::conv2d", DeviceType.CPU, 0, cpu_us=2, flops=500, count=3),
        event("aten::mkldnn_convolution", DeviceType.CPU, 0, cpu_us=90, count=3),
        event("aten::addmm", DeviceType.CPU, 0, cpu_us=9, flops=70),
    ]
    found = operators.by_operator(events, "cpu")
    assert {name: row["flop"] for name, row in found.items()} == {
        "aten::conv2d": 0,
        "aten::mkldnn_convolution": 500,
        "aten::addmm": 70,
    }


def test_the_costliest_operators_are_named():
    rows = operators.operators(Namespace(size="tiny", frames=6, side=16))
    shares = [row["share_of_time"] for row in rows]
    assert len(rows) == 8 and shares == sorted(shares, reverse=True) and 0.3 < sum(shares) <= 1
    assert any(row["operator"].startswith("aten::") for row in rows)


def test_seams_close_with_distance_and_never_with_a_norm_over_the_tile():
    """What sizes a map's margin: 16 px from the edge two patches agree, unless a norm sees the whole tile."""
    rows = {}
    for norm in ("pixel", "group"):
        torch.manual_seed(0)
        model = AlphaEarth(ModelConfig.named("tiny", norm=norm)).eval()
        rows[norm] = seams.agreement(model, scenes=1)
    by_distance = [rows["pixel"][f"{low}-{high} px"] for low, high in seams.BANDS]
    assert by_distance[0] < by_distance[1] < by_distance[2] < by_distance[3]
    assert rows["pixel"]["16-23 px, least"] > 0.9999 > 0.999 > rows["group"]["16-23 px"]
