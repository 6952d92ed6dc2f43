"""One factor at a time: a training and the same probes for each, all on the shards of one ingest.

    python -m benchmarks.ablations --config configs/sandbox.yaml --root runs/ablations --seeds 0 --steps 1050
    python -m benchmarks.ablations --factors reference noise_off consistency_off

All roots share one synthetic Earth. ``base_SEED`` holds plan, shards and texts' vectors; a factor's root starts with
hard links to them and runs the real stages, which skip what they find. A factor whose result stands in
``ablations.json`` is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipelines.config import load_config

METRICS = ("balanced_accuracy", "r2")
GROUPS = {
    "radar": ("sentinel1",),
    "landsat": ("landsat",),
    "lidar": ("gedi",),
    "environment": ("era5", "elevation"),
    "annotation": ("landcover",),
}
IMAGING = ("sentinel1", "landsat")

FACTORS: dict[str, tuple[str, ...]] = {
    "reference": (),
    "noise_off": ("train.overrides.kappa=null",),
    "targets_among_inputs": ("train.hold_out=false",),
    "consistency_off": ("train.overrides.consistency_weight=0",),
    "uniformity_off": ("train.overrides.uniformity_weight=0",),
    "text_off": ("train.overrides.text_weight=0",),
    "one_period": ("train.whole_period=1", "train.overrides.whole_period=1"),
    "space_operator_on": ("train.overrides.space_operator=true",),
    "space_operator_off": ("train.overrides.space_operator=false",),
    "norm_group": ("train.overrides.norm=group",),
    "upsampling_shuffle": ("train.overrides.upsampling=shuffle",),
    "upsampling_bilinear": ("train.overrides.upsampling=bilinear",),
    "code_norm_none": ("train.overrides.code_norm=none",),
    "code_norm_batch": ("train.overrides.code_norm=batch",),
    "code_norm_half_white": ("train.overrides.code_norm=half_white",),
}
FACTORS |= {
    f"without_{group}": (
        *(f"sources.{name}.loss_weight=0" for name in names),
        *(f"sources.{name}.encoded=false" for name in names if name in IMAGING),
        *(("train.overrides.text_weight=0",) if group == "annotation" else ()),
    )
    for group, names in GROUPS.items()
}
"""What each factor changes, as ``--set`` of the command line; the reference changes nothing."""


def _aef(stage: str, config: str, settings: list[str]) -> None:
    command = [sys.executable, "-m", "pipelines.cli", stage, "--config", config]
    subprocess.run(command + [word for setting in settings for word in ("--set", setting)], check=True)


def shared(root: Path) -> list[str]:
    """Settings by which all roots use one Earth."""
    earth = (root / "sandbox").resolve()
    return [
        f"sandbox.path={earth}",
        f"evaluate.truth={earth}/truth",
        f"evaluate.labels=[{earth}/truth/labels.parquet]",
    ]


def link(base: Path, root: Path) -> None:
    """What another root's ingest made, by hard links: objects are replaced whole, so the other root keeps its own."""
    for folder in ("plan", "shards", "texts"):
        if (base / folder).exists() and not (root / folder).exists():
            shutil.copytree(base / folder, root / folder, copy_function=os.link)


def figures(root: Path) -> dict[str, float]:
    """The embedding's best heads by ``task@shots``, and the effective rank.

    Raises:
        KeyError: when the run has no effective rank.
    """
    rows: list[dict[str, Any]] = json.loads((root / "reports/scores.json").read_text())
    best = [r for r in rows if r["features"] == "embedding" and r["head"] == "best" and r["metric"] in METRICS]
    found = {f"{row['task']}@{row['shots']}": row["mean"] for row in best}
    checks = {row["metric"]: row["mean"] for row in rows if row["head"] == "check"}
    return found | {"effective rank": checks["effective rank"]}


def measure(config: str, root: Path, factors: list[str], seeds: list[int], extra: list[str]) -> list[dict[str, Any]]:
    """Every factor with every seed (of sites, training and draws of labels; the Earth is the same).

    Raises:
        subprocess.CalledProcessError: when a stage fails.
        ValueError: for results in the root that were made with other settings.
    """
    file = root / "ablations.json"
    done: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    if any((row["config"], row["extra"]) != (config, extra) for row in done):
        raise ValueError(f"{file}: made with other settings; name another --root, or remove it")
    asked = [(factor, seed) for factor in factors for seed in seeds]
    for factor, seed in asked:
        if any((row["factor"], row["seed"]) == (factor, seed) for row in done):
            continue
        base, own = root / f"base_{seed}", root / f"{factor}_{seed}"
        if not own.exists():
            for stage in ("plan", "ingest"):
                _aef(stage, config, [*shared(root), *extra, f"seed={seed}", f"root={base}"])
        link(base, own)
        _aef("run", config, [*shared(root), *extra, *FACTORS[factor], f"seed={seed}", f"root={own}"])
        done.append({"config": config, "extra": extra, "factor": factor, "seed": seed, "figures": figures(own)})
        file.write_text(json.dumps(done, indent=1) + "\n")
    return [row for row in done if (row["factor"], row["seed"]) in asked]


def table(rows: list[dict[str, Any]]) -> str:
    """One line a factor, means over its seeds; one column a figure."""
    columns = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    width = max(map(len, columns)) + 2
    lines = [f"{'factor':<24}{'seeds':>6}" + "".join(f"{name:>{width}}" for name in columns)]
    for factor in dict.fromkeys(row["factor"] for row in rows):
        part = [row["figures"] for row in rows if row["factor"] == factor]
        cells = []
        for name in columns:
            values = [found[name] for found in part if name in found]
            cells.append(f"{sum(values) / len(values):>{width}.3f}" if values else f"{'-':>{width}}")
        lines.append(f"{factor:<24}{len(part):>6}{''.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/sandbox.yaml")
    parser.add_argument("--root", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--factors", nargs="+", choices=list(FACTORS), default=list(FACTORS), metavar="FACTOR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, help="of each training (default: the configuration's)")
    parser.add_argument("--set", dest="extra", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    extra = options.extra + ([f"train.steps={options.steps}"] if options.steps else [])
    load_config(options.config, extra)  # a wrong setting is said before anything is built
    print(table(measure(options.config, options.root, options.factors, options.seeds, extra)))


if __name__ == "__main__":
    main()
