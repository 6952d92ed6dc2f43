"""Evaluate: what the embeddings are good for, beside designed features and the untrained model; and the report."""

from __future__ import annotations

import hashlib

from pipelines.config import Config, ConfigError
from pipelines.evaluation.labels import file_bytes
from pipelines.evaluation.quality import Check
from pipelines.evaluation.reduction import mean_reductions
from pipelines.evaluation.report import write_report
from pipelines.evaluation.scores_io import Score, write_scores
from pipelines.products import code_digest, committed_tiles, identity
from pipelines.stages import checkpoint as checkpoints
from pipelines.stages.checks import quality_checks
from pipelines.stages.probe_points import computed_features, label_files, labelled_points, places_of
from pipelines.stages.report_contents import report_data
from pipelines.stages.scoring import Features, all_scores, mapped_vectors
from pipelines.stages.session import Progress, StageResult, ray_session
from pipelines.stages.shard_set import current_shards
from pipelines.stages.truth import check_truth, truth_files
from pipelines.storage import Storage

SCORES = "reports/scores.json"
REPORT = "reports/report.html"
EVALUATED = "reports/evaluated.json"
"""What the scores and the report were made from."""
EMBEDDING = "embedding"


def run(config: Config) -> StageResult:
    """Probe every task and write scores and report.

    Raises:
        ConfigError: without labels in the area, or a trained model; for truth that is not on this machine.
    """
    if config.evaluate is None:
        raise ConfigError("evaluate: the configuration has no such section; it names the labels and the tasks")
    check_truth(config)
    storage = Storage(config.root)
    result = StageResult("evaluate", "tasks", planned=len(config.evaluate.tasks))
    key = evaluation_identity(config)
    if all(map(storage.exists, (EVALUATED, SCORES, REPORT))) and storage.read_json(EVALUATED)["identity"] == key:
        result.skipped = result.planned
        result.reasons = {"already scored with these tiles, labels and settings": result.planned}
        result.details = storage.read_json(EVALUATED)["details"]
        return result
    places = places_of(config)
    points = labelled_points(config, places)
    features: Features = {EMBEDDING: mapped_vectors(storage, points)}
    with ray_session(config):
        features |= computed_features(config, places, points)
        scores = all_scores(config, points, features, Progress("evaluate", "parts of the table"))
    result.written = result.planned
    reductions = mean_reductions(scores)
    scores += reductions
    checks = quality_checks(config, points, features[EMBEDDING])
    write_scores(storage, SCORES, scores + check_rows(checks, len(points)))
    write_report(storage, REPORT, report_data(config, places, points, features[EMBEDDING], scores, checks))
    result.details = {
        "points": len(points),
        "scores": len(scores),
        "mean_error_reduction": {str(row.shots): row.mean for row in reductions},
        "checks": {c.name: c.value for c in checks},
    }
    storage.write_json(EVALUATED, {"identity": key, "details": result.details})
    return result


def check_rows(checks: list[Check], points: int) -> list[Score]:
    """The checks of the maps as rows of the score file: task ``quality``, head ``check``, the metric is their name."""
    return [
        Score("quality", "all", "max", "check", EMBEDDING, check.name, check.value, None, None, points)
        for check in checks
    ]


def evaluation_identity(config: Config) -> str:
    """Hash of everything that scores and report come from: tiles, shards, labels, model, settings, code."""
    assert config.evaluate is not None
    storage = Storage(config.root)
    tiles = [(receipt["tile_id"], receipt["period"]["label"], receipt["data"]["sha256"]) for receipt in
             committed_tiles(storage)]  # fmt: skip
    parameters = {
        "evaluate": config.evaluate.model_dump(mode="json"),
        "embed": config.embed.model_dump(include={"patch_px", "margin_px", "precision"}),
        "sources": {name: config.source(name).band_names for name in config.sources},
        "periods": config.periods,
        "seed": config.seed,
    }
    return identity(
        inputs={
            "tiles": sorted(tiles),
            "shards": current_shards(config, "train") + current_shards(config, "test"),
            "labels": label_digests(config),
            "truth_files": truth_files(config),
        },
        parameters=parameters,
        model_digest=checkpoints.current_digest(config),
        code_digest=code_digest(
            "aef_model",
            "pipelines.evaluation",
            "pipelines.stages.evaluate",
            "pipelines.stages.scoring",
            "pipelines.stages.checks",
            "pipelines.stages.report_contents",
            "pipelines.stages.truth",
            "pipelines.stages.probe_points",
            "pipelines.stages.pictures",
            "pipelines.stages.embedder",
        ),
    )


def label_digests(config: Config) -> list[tuple[str, str]]:
    """Every label file and the SHA-256 of its content; empty where there is none, which is reported by its reader."""
    contents = ((path, file_bytes(path)) for path in label_files(config))
    return [(path, "" if found is None else hashlib.sha256(found).hexdigest()) for path, found in contents]


def describe(config: Config) -> None:
    """Print what evaluate would do."""
    if config.evaluate is None:
        print("[evaluate] no evaluate section: no labels, nothing to probe")
        return
    check_truth(config)
    tasks = ", ".join(f"{task.name} ({task.kind})" for task in config.evaluate.tasks)
    print(f"[evaluate] {tasks}; labels {list(config.evaluate.labels)}; shots {list(config.evaluate.shots)}")
