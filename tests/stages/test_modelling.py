"""The model's own sources and those of the data side are the same, so a batch of one fits the other, of any size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aef_model import AlphaEarth, ModelConfig
from aef_model.check import check_batch
from aef_model.config import PAPER_SOURCES, SENTINEL2_BANDS_13
from pipelines.grid import DAY_MS
from pipelines.sequence import PointSamples, Sequence, TextSamples
from pipelines.sources import SOURCES, source
from pipelines.sources.base import Kind
from pipelines.sources.statistics import BandStatistics, Statistics
from pipelines.stages.batches import collate, draw_for, to_batch
from pipelines.stages.modelling import model_config, source_config
from tests.stages.worlds import YEAR, config, raster, sequence

SIZES = ("tiny", "small", "base", "large")
SIDE = 32
NAMES = tuple(paper.name for paper in PAPER_SOURCES)
CATALOG = {"catalog": "here", "collections": ["any"]}
CONFIG = config(sources={name: CATALOG for name in (*NAMES, "text")}, train={"crop_px": SIDE, "whole_period": 1.0})
PAPER = {name: SOURCES[name] for name in NAMES}


def everything(index):
    """A sequence with frames of each of the paper's sources, and a text."""
    plain = sequence(config(), index, size=SIDE)
    days = {Kind.FRAMES: range(10, 360, 40), Kind.SERIES: range(15, 360, 30)}
    rasters = {
        name: raster(its, days.get(its.kind, [180]), (SIDE, SIDE))
        for name, its in PAPER.items()
        if its.kind is not Kind.POINTS
    }
    at = np.arange(0, SIDE, 8, dtype=np.int32)
    heights = np.ones((len(at), len(PAPER["gedi"].bands)), np.float32)
    points = {"gedi": PointSamples(at, at, np.full(len(at), YEAR.start_ms), heights)}
    assert plain.texts is not None
    texts: TextSamples = replace(plain.texts, vector=np.eye(2, 384, dtype=np.float32))
    return Sequence(plain.sequence_id, plain.window, YEAR, "train", rasters, points, texts)


def batch_of(train):
    """Two sequences of everything as a batch."""
    samples = []
    for index in range(2):
        rng, whole = np.random.default_rng(index), everything(index)
        drawn = draw_for(whole, PAPER, train, rng)
        rasters = {}
        for name, its in whole.rasters.items():
            arrays = {key: x[drawn.frames[name]] for key, x in vars(its).items() if isinstance(x, np.ndarray)}
            rasters[name] = replace(its, **arrays)
        samples.append((replace(whole, rasters=rasters), drawn, rng))
    statistics = Statistics(
        {
            name: BandStatistics(its.band_names, np.full(n, 100), np.zeros(n), np.ones(n))
            for name, its in PAPER.items()
            if (n := len(its.bands)) and its.kind is not Kind.CLASSES
        }
    )
    return to_batch(collate(samples, PAPER, train), PAPER, statistics, torch.device("cpu"))


@pytest.fixture
def batch():
    return batch_of(CONFIG.train)


@pytest.mark.parametrize("size", SIZES)
def test_a_named_size_has_the_sources_of_the_data_side(size):
    """Names, bands, classes, geometry, losses and the student's drop rates, one by one."""
    named = ModelConfig.named(size)
    assert named.sources == tuple(source_config(its) for its in PAPER.values())
    settings = CONFIG.model_copy(update={"train": CONFIG.train.model_copy(update={"model": size})})
    assert model_config(settings) == named


@pytest.mark.parametrize("size", SIZES)
def test_a_named_size_accepts_what_the_data_side_makes_of_all_sources(size, batch):
    assert set(batch.targets) == set(NAMES) and batch.text is not None
    assert check_batch(ModelConfig.named(size), batch) == (2, SIDE, SIDE)


def test_a_named_size_learns_from_what_the_data_side_makes_of_all_sources(batch):
    torch.manual_seed(0)
    out = AlphaEarth(ModelConfig.named("tiny"))(batch, torch.Generator().manual_seed(0), step=0)
    assert {f"reconstruction/{name}" for name in NAMES} <= set(out.losses) and torch.isfinite(out.total)


def test_the_thirteen_bands_have_the_same_names_on_both_sides():
    thirteen = ModelConfig.named("tiny", inputs={"sentinel2": SENTINEL2_BANDS_13}).source("sentinel2")
    assert thirteen == source_config(source("sentinel2", SENTINEL2_BANDS_13))


def test_periods_of_each_source_own_reach_its_decoder_alone():
    """As in the paper: eleven periods a sequence, drawn by the sampler, collated, summarised and decoded."""
    train = CONFIG.train.model_copy(update={"shared_periods": False, "whole_period": 0.0})
    batch = batch_of(train)
    assert set(batch.periods_ms) == {*NAMES, "text"}
    assert {name: target.period for name, target in batch.targets.items()} == {name: name for name in NAMES}
    assert batch.text is not None and batch.text.period == "text"
    assert len({tuple(period.flatten().tolist()) for period in batch.periods_ms.values()}) == len(NAMES) + 1
    for name in ("sentinel2", "sentinel1", "landsat", "palsar2"):  # instants, within the period that decodes them
        start, end = batch.periods_ms[name].T
        assert ((batch.targets[name].time_ms >= start) & (batch.targets[name].time_ms < end)).all()
    torch.manual_seed(0)
    model = AlphaEarth(ModelConfig.named("tiny", uniformity_weight=0.0)).eval()

    def losses():
        with torch.no_grad():
            return model(batch, torch.Generator().manual_seed(0)).losses

    before = losses()
    assert all(torch.isfinite(loss) for loss in before.values())
    for moved in ("landsat", "gedi", "text"):
        kept = batch.periods_ms[moved]
        batch.periods_ms[moved] = kept - 40 * DAY_MS
        changed = {name for name, loss in losses().items() if not torch.equal(loss, before[name])}
        assert changed == ({"text"} if moved == "text" else {f"reconstruction/{moved}", "reconstruction"})
        batch.periods_ms[moved] = kept
