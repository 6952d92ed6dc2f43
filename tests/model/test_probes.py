"""What the benchmark probes is what the model's parts hand on."""

import numpy as np
import torch

from aef_model.model import Features
from aef_model.timeaxis import TimeAxis
from benchmarks.probes import MONTHS, Layers, monthly, table
from pipelines.evaluation.scores_io import Score
from tests.model.conftest import DAY, YEAR_2021, make_frames, year


def test_every_layer_is_that_of_the_model(tiny):
    frames, period = make_frames(tiny.cfg), year(2)
    layers = Layers(tiny, seed=0)
    with torch.no_grad():
        found = layers.embed(frames, period)
    parts = dict(zip(layers.cfg.widths, found.split(list(layers.cfg.widths.values()), dim=-1), strict=True))
    unit = tiny.embed(frames, period)
    torch.testing.assert_close(parts["embedding"], unit)
    torch.testing.assert_close(torch.nn.functional.normalize(parts["code"], dim=-1), unit)
    cosine = (parts["noisy"] * unit).sum(-1)
    # 63 directions of variance 1 / 8000 beside the mean: SPEC's kappa.
    assert 0.995 < float(cosine.mean()) < 0.9975
    middle = YEAR_2021[0] + round(365 * DAY * 1.5 / MONTHS)
    source = tiny.cfg.inputs[0]
    with torch.no_grad():
        decoded = tiny.decoders[source.name](
            unit, torch.tensor([middle] * 2), period, torch.zeros(2, source.geometry_dim)
        )
    torch.testing.assert_close(parts["decoded"][..., source.outputs : 2 * source.outputs], decoded)


def test_the_encoders_features_are_averaged_by_month_where_measured():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 4, 4, 3)).astype(np.float32)
    days = rng.integers(0, 90, (2, 9))  # the later months have no frame
    seen = rng.random((2, 9, 4, 4)) < 0.7
    seen[:, 0] = True
    there = rng.random((2, 9)) < 0.8
    there[:, 0] = True
    time_ms = torch.from_numpy(YEAR_2021[0] + days * DAY + 1)
    axis = TimeAxis(time_ms, torch.from_numpy(there), None)
    found = monthly(Features(torch.from_numpy(x).flatten(0, 1), axis), torch.from_numpy(seen), year(2))
    for b, i, j, month in np.ndindex(2, 4, 4, MONTHS):
        usable = there[b] & seen[b, :, i, j]
        inside = usable & ((days[b] + 1e-6) // (365 / MONTHS) == month)
        expected = x[b, inside if inside.any() else usable, i, j].mean(axis=0)
        np.testing.assert_allclose(found[b, i, j, 3 * month : 3 * month + 3], expected, atol=1e-5)


def test_the_table_has_the_best_baseline_and_not_the_model_itself():
    score = Score("crops", "test", 10, "best", "pooled", "balanced_accuracy", 0.5, None, None, 9)
    others = [("composite", 0.4), ("harmonics", 0.6), ("embedding", 0.9), ("untrained", 0.8)]
    rows = [{**vars(score), "features": name, "mean": mean} for name, mean in others]
    first, pooled, best = table([score], rows).splitlines()
    assert first.split() == ["layer", "crops@10"] and pooled.split() == ["pooled", "0.500"]
    assert best.split() == ["best", "baseline", "0.600"]
