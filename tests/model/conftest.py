"""Random but well-formed frames and batches."""

from datetime import UTC, datetime

import pytest
import torch

from aef_model import AlphaEarth, Batch, FrameSequence, ModelConfig, Target, TextTarget

DAY = 86_400_000
COUNTS = {"sentinel2": 5, "sentinel1": 3, "landsat": 2}


def ms(*date):
    return int(datetime(*date, tzinfo=UTC).timestamp() * 1000)


YEAR_2021 = (ms(2021, 1, 1), ms(2022, 1, 1))


def make_frames(cfg, batch=2, size=(32, 32), seed=0, counts=COUNTS):
    g = torch.Generator().manual_seed(seed)
    pixels, time_ms, present = {}, {}, {}
    for source in cfg.inputs:
        n = counts[source.name]
        pixels[source.name] = torch.randn(batch, n, len(source.bands), *size, generator=g)
        days = torch.randint(0, 365, (batch, n), generator=g).sort(dim=1).values
        time_ms[source.name] = YEAR_2021[0] + days * DAY + 37_000_123
        present[source.name] = torch.ones(batch, n, dtype=torch.bool)
    return FrameSequence(pixels, time_ms, present)


def year(batch):
    return torch.tensor([YEAR_2021] * batch)


def make_batch(cfg, batch=4, size=(32, 32), seed=0):
    g = torch.Generator().manual_seed(seed + 1)
    targets = {}
    for source in cfg.sources:
        rows, cols = size if source.extent else (1, 1)
        if source.classes is not None:
            values = torch.randint(-1, len(source.classes), (batch, rows, cols), generator=g)
            weight = (values >= 0).float()
        else:
            values = torch.randn(batch, len(source.bands), rows, cols, generator=g)
            weight = (torch.rand(values.shape, generator=g) < 0.9).float()
            values[weight == 0] = float("nan")
        targets[source.name] = Target(
            values=values,
            weight=weight,
            time_ms=YEAR_2021[0] + torch.randint(0, 365, (batch,), generator=g) * DAY,
            period="imaging" if source.is_input else "rest",
            geometry=torch.randn(batch, source.geometry_dim, generator=g),
        )
    half = year(batch).clone()
    half[:, 1] = ms(2021, 7, 1)
    text = TextTarget(
        vector=torch.randn(batch, cfg.text_dim, generator=g),
        row=torch.randint(0, size[0], (batch,), generator=g),
        col=torch.randint(0, size[1], (batch,), generator=g),
        present=torch.tensor([True] * (batch - 1) + [False]),
        period="text",
    )
    periods = {"imaging": year(batch), "rest": half, "text": year(batch)}
    return Batch(make_frames(cfg, batch, size, seed), year(batch), periods, targets, text, torch.arange(batch))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors gain nothing from more, and wait at barriers on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny():
    torch.manual_seed(0)
    return AlphaEarth(ModelConfig.named("tiny")).eval()
