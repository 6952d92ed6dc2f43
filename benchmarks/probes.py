"""Where in a trained model information is lost: the same probes on what each of its parts hands on.

    python -m benchmarks.probes --config configs/sandbox.yaml

Of a finished run (``--config`` and ``--set`` as of ``aef run``) the labelled points are probed once more, with the
run's own points, draws and heads, on

* encoder: its features of every month, averaged over the month's frames (each pixel's between the cells' of the
  precision grid); a month without frames has the period's mean,
* pooled: what the attention over time makes of them, before the learned upsampling,
* code: upsampled, before it is put on the sphere,
* embedding: of unit length, without noise,
* noisy: the same as the decoders see it in training, one draw from the bottleneck's distribution,
* stored: as it is read from the tiles, eight bits a number,
* decoded: what the decoder of the first input source makes of the embedding for twelve instants of the period.

The best baseline of the run stands beside them: what can be learned from the data without a model. A step from one row
to the next is what that part costs at that task and number of labels. Features other than embedding and stored get the
better of raw and standardised, as baselines do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aef_model import AlphaEarth, FrameSequence
from aef_model.bottleneck import sample_von_mises_fisher, to_unit
from aef_model.exchange import enlarge
from aef_model.model import Features
from benchmarks.quality import METRICS, NOT_BASELINES
from pipelines.config import Config, load_config
from pipelines.evaluation.scores_io import Score
from pipelines.shards import read_rows
from pipelines.stages import checkpoint as checkpoints
from pipelines.stages.embedder import Embedder
from pipelines.stages.evaluate import SCORES
from pipelines.stages.probe_points import Place, labelled_points, places_of
from pipelines.stages.scoring import all_scores, mapped_vectors
from pipelines.stages.session import Progress, ray_session
from pipelines.storage import Storage

MONTHS = 12


class Layers(nn.Module):
    """A model whose embedding is everything on the way to it, side by side.

    Args:
        model: in evaluation mode.
        seed: of the noise.
    """

    def __init__(self, model: AlphaEarth, seed: int) -> None:
        super().__init__()
        self.model, self.cfg = model, _Widths(model)
        self.generator = torch.Generator().manual_seed(seed)

    def embed(self, frames: FrameSequence, period_ms: Tensor) -> Tensor:
        """``(B, H, W, D)``, the parts of :attr:`cfg` one after another."""
        model = self.model
        features = model.encode(frames)
        axis = features.axis
        assert axis.measured is not None
        measured = axis.spread(axis.measured.precision)
        pooled = model.pooling(axis.spread(features.frames), axis.time_ms, measured, period_ms[:, None])[:, 0]
        code = model.upsampler(pooled).float()
        unit = to_unit(code)
        kappa = model.cfg.kappa
        noisy = unit if kappa is None else sample_von_mises_fisher(unit, kappa, self.generator)
        months = monthly(features, measured, period_ms)
        fine = [enlarge(x.float().permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1) for x in (months, pooled)]
        return torch.cat([*fine, code, unit, noisy, self._decoded(unit, period_ms)], dim=-1)

    def _decoded(self, unit: Tensor, period_ms: Tensor) -> Tensor:
        source = self.model.cfg.inputs[0]
        share = (torch.arange(MONTHS, dtype=torch.float64) + 0.5) / MONTHS
        time_ms = (period_ms[:, :1] + share * (period_ms[:, 1:] - period_ms[:, :1])).long()
        geometry = torch.zeros(time_ms.numel(), source.geometry_dim)
        decoded: Tensor = self.model.decoders[source.name](unit, time_ms.flatten(), period_ms, geometry)
        return decoded.unflatten(0, time_ms.shape).permute(0, 2, 3, 1, 4).flatten(-2)


class _Widths:
    """What :class:`Layers` gives, by name, in the place of a model's configuration."""

    def __init__(self, model: AlphaEarth) -> None:
        cfg = model.cfg
        self.inputs = cfg.inputs
        self.widths = {
            "encoder": MONTHS * cfg.precision_dim,
            "pooled": cfg.pool_heads * cfg.pool_dim,
            "code": cfg.embedding_dim,
            "embedding": cfg.embedding_dim,
            "noisy": cfg.embedding_dim,
            "decoded": MONTHS * cfg.inputs[0].outputs,
        }
        self.embedding_dim = sum(self.widths.values())


def monthly(features: Features, measured: Tensor, period_ms: Tensor) -> Tensor:
    """Mean of the frames' features in each twelfth of the period.

    Args:
        features: of the encoder.
        measured: ``(B, N, h, w)``, where each frame measured anything.
        period_ms: ``(B, 2)``.

    Returns:
        ``(B, h, w, 12 * C)``; a part without any frame has the mean of all frames.
    """
    x, axis = features.axis.spread(features.frames).float(), features.axis
    length = (period_ms[:, 1:] - period_ms[:, :1]).double()
    part = ((axis.time_ms - period_ms[:, :1]).double() / length * MONTHS).floor().clamp(0, MONTHS - 1)
    inside = measured & axis.present[..., None, None]
    means: list[Tensor] = []
    for month in range(-1, MONTHS):
        weight = (inside if month < 0 else inside & (part == month)[..., None, None]).float()[..., None]
        count = weight.sum(dim=1)
        mean = (x * weight).sum(dim=1) / count.clamp_min(1)
        means.append(mean if month < 0 else torch.where(count > 0, mean, means[0]))
    return torch.cat(means[1:], dim=-1)


def layer_features(config: Config, places: list[Place], points: pd.DataFrame) -> dict[str, NDArray[np.float32]]:
    """``(P, D)`` by the layer's name at every labelled point."""
    embedder = Embedder.of(config, checkpoints.trained(config))
    layers = Layers(embedder.model, config.seed)
    embedder.model = layers  # type: ignore[assignment]  # has what the embedder asks of a model
    found = np.full((len(points), layers.cfg.embedding_dim), np.nan, np.float32)
    storage, progress = Storage(config.root), Progress("layers", "sequences")
    groups = list(points.groupby("place"))
    for done, (index, part) in enumerate(groups):
        place = places[int(index)]
        (sequence,) = read_rows(storage, [place.row])
        found[part.index] = embedder.embed_whole(sequence, place.period)[part["row"], part["col"]]
        progress(done + 1, len(groups))
    ends = np.cumsum(list(layers.cfg.widths.values()))
    return dict(zip(layers.cfg.widths, np.split(found, ends[:-1], axis=1), strict=True))


def table(rows: list[Score], baselines: list[dict[str, Any]]) -> str:
    """One line a layer, one column a task and number of labels; the best of the baselines last."""
    best = [row for row in rows if row.head == "best" and row.metric in METRICS]
    columns = list(dict.fromkeys((row.task, row.shots) for row in best))
    width = max(len(f"{task}@{shots}") for task, shots in columns) + 2
    lines = [f"{'layer':<16}" + "".join(f"{f'{task}@{shots}':>{width}}" for task, shots in columns)]
    for name in dict.fromkeys(row.features for row in best):
        cells = {(row.task, row.shots): row.mean for row in best if row.features == name}
        lines.append(f"{name:<16}" + "".join(f"{cells[column]:>{width}.3f}" for column in columns))
    rivals = [row for row in baselines if row["head"] == "best" and row["metric"] in METRICS]
    rivals = [row for row in rivals if row["features"] not in NOT_BASELINES]
    means = [max(row["mean"] for row in rivals if (row["task"], row["shots"]) == column) for column in columns]
    return "\n".join([*lines, f"{'best baseline':<16}" + "".join(f"{mean:>{width}.3f}" for mean in means)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/sandbox.yaml")
    parser.add_argument("--set", dest="extra", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    config = load_config(options.config, options.extra)
    storage = Storage(config.root)
    baselines = storage.read_json(SCORES)
    places = places_of(config)
    points = labelled_points(config, places)
    features = layer_features(config, places, points)
    features["stored"] = mapped_vectors(storage, points)
    with ray_session(config):
        rows = all_scores(config, points, features, Progress("layers", "parts of the table"))
    print(table(rows, baselines))
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
