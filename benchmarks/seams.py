"""How well overlapping patches agree: the same pixel from two patches, by its distance to the nearer patch edge.

    python -m benchmarks.seams                                 untrained: both norms, with and without space operator
    python -m benchmarks.seams --config configs/sandbox.yaml   the model that this configuration's root holds

A cell reads mean cosine (least). It sizes the margin that a map cuts off its patches (``embed.margin_px``). Frames are
random at three scales and unlike on both sides; half of Sentinel-2's end within the strip, as swaths do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from aef_model import AlphaEarth, FrameSequence, ModelConfig
from pipelines.config import load_config
from pipelines.stages.checkpoint import trained

SIDE, STEP = 128, 64  # px: of a patch, and by how much the second is moved
COUNTS = {"sentinel2": 12, "sentinel1": 6, "landsat": 4}
BANDS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 11), (12, 15), (16, 23), (24, 31))  # px to the nearer edge
YEAR_MS = (1_609_459_200_000, 1_640_995_200_000)
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "tiny, no space operator": {"space_operator": False},
    "tiny, GroupNorm": {"norm": "group"},
    "tiny, GroupNorm, no space operator": {"norm": "group", "space_operator": False},
    "tiny, smoothed exchange": {"exchange_up": "smoothed"},
    "tiny, transposed exchange": {"exchange_up": "transposed"},
}


def scene(cfg: ModelConfig, seed: int) -> FrameSequence:
    """One strip of two overlapping patches: noise at 1, 4 and 16 px, more of it in the left half than in the right."""
    g = torch.Generator().manual_seed(seed)
    rows, cols = SIDE, SIDE + STEP
    pixels, time_ms, present = {}, {}, {}
    for source in cfg.inputs:
        n, bands = COUNTS.get(source.name, 4), len(source.bands)
        x = torch.zeros(n, bands, rows, cols)
        for cell in (1, 4, 16):
            coarse = torch.randn(n, bands, rows // cell, cols // cell, generator=g)
            x += F.interpolate(coarse, scale_factor=float(cell), mode="bilinear") if cell > 1 else coarse
        x = x * torch.linspace(0.8, 0.3, cols)
        if source.name == "sentinel2":
            x[::2, :, :, cols // 2 + 10 :] = float("nan")
        pixels[source.name] = x[None]
        time_ms[source.name] = torch.randint(*YEAR_MS, (1, n), generator=g)
        present[source.name] = torch.ones(1, n, dtype=torch.bool)
    return FrameSequence(pixels, time_ms, present)


def agreement(model: AlphaEarth, scenes: int) -> dict[str, Any]:
    """Mean and smallest cosine by band of distance."""
    period = torch.tensor([YEAR_MS])
    away = torch.arange(STEP)
    distance = torch.minimum(away, STEP - 1 - away)  # of the shared columns, to the edge of the one or the other patch
    cosines = []
    for seed in range(scenes):
        frames = scene(model.cfg, seed)
        left, right = (
            model.embed(
                FrameSequence({k: x[..., cut] for k, x in frames.pixels.items()}, frames.time_ms, frames.present),
                period,
            )[0]
            for cut in (slice(0, SIDE), slice(STEP, STEP + SIDE))
        )
        # rows 32 px from the other two edges, which both patches share
        cosines.append((left[32:-32, STEP:] * right[32:-32, :STEP]).sum(-1))
    cosine = torch.cat(cosines)
    row: dict[str, Any] = {}
    for low, high in BANDS:
        chosen = cosine[:, (distance >= low) & (distance <= high)]
        row[f"{low}-{high} px"] = float(chosen.mean())
        row[f"{low}-{high} px, least"] = float(chosen.min())
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """One line a model: mean (least) by distance."""
    names = [f"{low}-{high} px" for low, high in BANDS]
    lines = [f"{'model':<36}" + "".join(f"{name:>18}" for name in names)]
    for row in rows:
        cells = (f"{row[name]:.4f} ({row[f'{name}, least']:.3f})" for name in names)
        lines.append(f"{row['model']:<36}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="of a run that has trained a model, in place of untrained ones")
    parser.add_argument("--set", dest="extra", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = []
    if options.config:
        config = load_config(options.config, options.extra)
        model, _ = trained(config).build()
        rows.append({"model": options.config, **agreement(model, options.scenes)})
    else:
        for name, settings in VARIANTS.items():
            torch.manual_seed(0)
            model = AlphaEarth(ModelConfig.named("tiny", **settings)).eval()
            rows.append({"model": name, **agreement(model, options.scenes)})
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
