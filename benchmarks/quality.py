"""Whole runs with several seeds: the embedding beside the best baseline of the same run, by task and labels a class.

    python -m benchmarks.quality --config configs/sandbox.yaml --seeds 0 1 2 --root runs/quality

A seed changes the synthetic Earth, the sites, the order of training and the draws of labels. Runs that are complete are
not done again. A cell reads ``embedding (best baseline)``; intervals are those of the run, by bootstrap over sites. The
last lines say how much of the best baseline's kappa-adjusted error is gone, by task with classes and as their mean.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

METRICS = ("balanced_accuracy", "r2")
REDUCTION = "kappa_error_reduction"
NOT_BASELINES = {"embedding", "untrained"}
EARTH_SEED = 7  # of configs/sandbox.yaml; seed 0 is the run that `make run` does


def run(config: str, root: Path, seed: int, extra: list[str]) -> list[dict[str, Any]]:
    """One seed's rows of ``reports/scores.json``.

    Raises:
        subprocess.CalledProcessError: when the run fails.
    """
    settings = [f"root={root}", f"seed={seed}", f"sandbox.seed={EARTH_SEED + seed}", *extra]
    command = [sys.executable, "-m", "pipelines.cli", "run", "--config", config]
    subprocess.run(command + [part for setting in settings for part in ("--set", setting)], check=True)
    rows: list[dict[str, Any]] = json.loads((root / "reports/scores.json").read_text())
    return rows


def compare(seed: int, scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per task and shots: embedding, untrained network and best baseline, each with its best head."""
    best = [row for row in scores if row["head"] == "best" and row["metric"] in METRICS]
    rows = []
    for task, shots in dict.fromkeys((row["task"], row["shots"]) for row in best):
        found = {row["features"]: row for row in best if (row["task"], row["shots"]) == (task, shots)}
        rival = max((row for name, row in found.items() if name not in NOT_BASELINES), key=lambda row: row["mean"])
        own = found["embedding"]
        rows.append(
            {
                "seed": seed,
                "task": task,
                "shots": shots,
                "metric": own["metric"],
                "embedding": own["mean"],
                "low": own["low"],
                "high": own["high"],
                "baseline": rival["mean"],
                "baseline_features": rival["features"],
                "untrained": found["untrained"]["mean"] if "untrained" in found else None,
                "n": own["n"],
            }
        )
    return rows


def reductions(seed: int, scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per task and shots, and as the mean over tasks: the share of the best baseline's error that is gone."""
    return [
        {"seed": seed, "task": row["task"], "shots": row["shots"], "metric": REDUCTION, "reduction": row["mean"]}
        for row in scores
        if row["metric"] == REDUCTION
    ]


def table(rows: list[dict[str, Any]], seeds: list[int]) -> str:
    """One line a task and shots, one column a seed, and how often the embedding is ahead."""
    lines = [f"{'task':<26}{'shots':>6}" + "".join(f"{f'seed {seed}':>22}" for seed in seeds) + f"{'ahead':>8}"]
    for task, shots in dict.fromkeys((row["task"], row["shots"]) for row in rows):
        part = {row["seed"]: row for row in rows if (row["task"], row["shots"]) == (task, shots)}
        cells = "".join(
            f"{part[s]['embedding']:>14.3f} ({part[s]['baseline']:.3f})" if s in part else f"{'-':>22}" for s in seeds
        )
        ahead = sum(row["embedding"] > row["baseline"] for row in part.values())
        lines.append(f"{task:<26}{shots!s:>6}{cells}{f'{ahead}/{len(part)}':>8}")
    return "\n".join(lines)


def reduction_table(rows: list[dict[str, Any]], seeds: list[int]) -> str:
    """One line a task and shots, one column a seed, and the mean over seeds."""
    lines = [f"{'error reduction':<26}{'shots':>6}" + "".join(f"{f'seed {s}':>10}" for s in seeds) + f"{'mean':>10}"]
    for task, shots in dict.fromkeys((row["task"], row["shots"]) for row in rows):
        part = {row["seed"]: row["reduction"] for row in rows if (row["task"], row["shots"]) == (task, shots)}
        cells = "".join(f"{part[s]:>+10.1%}" if s in part else f"{'-':>10}" for s in seeds)
        lines.append(f"{task:<26}{shots!s:>6}{cells}{sum(part.values()) / len(part):>+10.1%}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/sandbox.yaml")
    parser.add_argument("--root", type=Path, default=Path("runs/quality"), help="a folder a seed is made below it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="extra", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows, gone = [], []
    for seed in options.seeds:
        scores = run(options.config, options.root / f"seed{seed}", seed, options.extra)
        rows += compare(seed, scores)
        gone += reductions(seed, scores)
    print(table(rows, options.seeds))
    print(reduction_table(gone, options.seeds))
    if options.json:
        options.json.write_text(json.dumps(rows + gone, indent=1) + "\n")


if __name__ == "__main__":
    main()
