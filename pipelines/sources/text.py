"""Texts about places: geolocated articles and species records; a contrastive target."""

from __future__ import annotations

from pipelines.sources.base import Kind, Source

SOURCE = Source(name="text", kind=Kind.TEXT, bands=(), dtype="float32", nodata=float("nan"), metric="contrastive")
