"""What a configuration asks for, tried out before any work: what a stage would refuse after hours is refused now."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from pipelines.catalogs.accounts import clashing_accounts, missing_accounts, missing_packages
from pipelines.config import Config, ConfigError
from pipelines.evaluation.baselines import NAMES
from pipelines.evaluation.labels import LabelColumns, TaskKind, labelled, pair_years, read_labels
from pipelines.stages.earth import area_of
from pipelines.stages.limits import check_readers
from pipelines.stages.modelling import model_config
from pipelines.stages.plan import open_catalogs
from pipelines.stages.probe_points import label_files
from pipelines.stages.scoring import task_of
from pipelines.stages.strata import Strata, on_land
from pipelines.stages.texts import check_encoder


def check_settings(config: Config, stages: Collection[str]) -> None:
    """Whether the stages can take the configuration; nothing is asked of a network.

    Args:
        config: as loaded.
        stages: that are to run.

    Raises:
        ConfigError: naming the key, the value and the remedy.
    """
    area = area_of(config) if {"plan", "ingest", "embed"} & set(stages) else None
    if area is not None and "plan" in stages:
        bounds = area.bounds
        if config.plan.land is not None:
            on_land([], config.plan.land, bounds)
        Strata(config.plan.strata, np.empty((0, 2)), bounds)
    try:
        open_catalogs(config)
        if config.sandbox is not None and config.sandbox.faults:
            from pipelines.sandbox.faults import Faults  # needs the web framework

            Faults.parse(config.sandbox.faults)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if lines := missing_packages(config):
        raise ConfigError(". ".join(lines))
    if {"ingest", "embed"} & set(stages):
        if clash := clashing_accounts(config):
            raise ConfigError(clash)
        if lines := missing_accounts(config):
            raise ConfigError(". ".join(lines))
    if "ingest" in stages:
        check_readers(config, "ingest.workers", config.ingest.workers)
    if "embed" in stages:
        check_readers(config, "embed.readers", config.embed.readers)
    if "ingest" in stages and "text" in config.sources and config.ingest.text_encoder is not None:
        check_encoder(config.ingest.text_encoder)
    if {"train", "embed"} & set(stages):
        model_config(config)
    for name in config.evaluate.features if config.evaluate else ():
        if name not in NAMES:
            raise ConfigError(f"evaluate.features: no baseline {name!r}; choose among {', '.join(NAMES)}")


def check_labels(config: Config) -> None:
    """Whether the label tables can be read and hold what the tasks ask for; which lie in sites is not known yet.

    Raises:
        ConfigError: for a missing file or column, a task without labels, or with labels of one class only.
    """
    evaluate = config.evaluate
    assert evaluate is not None
    try:
        table = read_labels(label_files(config), LabelColumns(group=evaluate.group, year=evaluate.year))
    except ConfigError:
        raise
    except (ValueError, OSError) as error:
        text = str(error)
        raise ConfigError(text if text.startswith("evaluate.") else f"evaluate.labels: {text}") from error
    for index, part in enumerate(evaluate.tasks):
        task = task_of(part)
        try:
            rows = pair_years(table, task) if task.kind is TaskKind.CHANGE else labelled(table, task)
        except ValueError as error:
            raise ConfigError(f"evaluate.tasks.{index}: {error}") from error
        where = "" if task.year is None else f" of {task.year}"
        if rows.empty:
            raise ConfigError(f"evaluate.tasks.{index}: no label in column {task.column}{where}; check column and year")
        if task.kind is not TaskKind.REGRESSION and rows["label"].nunique() < 2:
            raise ConfigError(
                f"evaluate.tasks.{index}: all labels in column {task.column}{where} are {rows['label'].iloc[0]!r}; a "
                "task needs two classes: add labels or leave it out"
            )
