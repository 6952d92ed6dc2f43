"""From the configured sources to the model's configuration."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_type_hints

from pydantic import TypeAdapter, ValidationError

from aef_model import ModelConfig, SourceConfig
from aef_model.config import PAPER_SOURCES
from pipelines.config import Config, ConfigError
from pipelines.sources import Source
from pipelines.sources.base import Kind

_PAPER = {paper.name: paper for paper in PAPER_SOURCES}


def source_config(source: Source) -> SourceConfig:
    """One source as the model sees it; the student's drop rates are the paper's."""
    base = _PAPER.get(source.name)
    chosen = SourceConfig(
        name=source.name,
        bands=source.band_names,
        is_input=source.is_input,
        classes=source.classes or None,
        geometry_dim=len(source.geometry_names),
        metric="cross_entropy" if source.metric == "cross_entropy" else "l1",
        shift_px=source.shift_px,
        regrid_px=source.regrid_px,
        loss_weight=source.loss_weight,
        extent=source.kind is not Kind.SERIES,
    )
    return replace(chosen, drop_source=base.drop_source, drop_frames=base.drop_frames) if base else chosen


def model_config(config: Config) -> ModelConfig:
    """The model that a configuration asks for.

    Raises:
        ConfigError: for an unknown size or setting.
    """
    sources = tuple(
        source_config(config.source(name)) for name in config.sources if config.source(name).kind is not Kind.TEXT
    )
    overrides = dict(config.train.overrides)
    known = {field.name for field in fields(ModelConfig)} - {"sources"}
    for name in overrides:
        if name not in known:
            raise ConfigError(
                f"train.overrides.{name}: the model has no such setting; it has {', '.join(sorted(known))}"
            )
    hints = get_type_hints(ModelConfig)
    for name, value in overrides.items():
        try:
            TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            message = error.errors()[0]["msg"].replace("Input should", "must")
            raise ConfigError(f"train.overrides.{name}: {message} (given: {value!r})") from error
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ConfigError(f"train.overrides.{name}: must be 0 or more and finite (given: {value!r})")
    if config.ingest.text_encoder is None or "text" not in config.sources:
        overrides["text_dim"] = 0
    try:
        return ModelConfig.named(config.train.model, sources=sources, **overrides)
    except (ValueError, ZeroDivisionError) as error:
        key = "train.overrides" if config.train.overrides and "model size" not in str(error) else "train.model"
        raise ConfigError(f"{key}: {error}") from error
