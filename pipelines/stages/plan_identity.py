"""What a plan was made for, part by part, so that a change can be named; what only later stages go by is no part."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from shapely.geometry.base import BaseGeometry

from pipelines.config import Config
from pipelines.products.identity import code_digest
from pipelines.stages.session import stable_json

CODE = "code"
# How a catalog is asked, and how its assets are opened: neither is in a plan.
_MANNERS = frozenset({"page_items", "concurrent", "attempts", "timeout_s", "signed", "s3_endpoint", "signer", "reads"})
_OF_SOURCES = {"catalog", "collections", "bands"}


def plan_parts(config: Config, area: BaseGeometry) -> dict[str, str]:
    """Digests of everything that a plan depends on but the catalogs' content, by what a person calls it."""
    used = {part.catalog for part in config.sources.values()}
    parts: dict[str, Any] = {
        "area": area.wkt,
        "periods": config.periods,
        "catalogs": {
            name: [part.kind, part.url, {key: value for key, value in part.options.items() if key not in _MANNERS}]
            for name, part in config.catalogs.items()
            if name in used
        },
        "sources": {name: part.model_dump(include=_OF_SOURCES) for name, part in config.sources.items()},
        "plan settings": config.plan.model_dump(),
        "files of strata or land": [
            _content(path) for path in (*(part.path for part in config.plan.strata), config.plan.land) if path
        ],
        "seed": config.seed,
        "sandbox": None if config.sandbox is None else [config.sandbox.size, config.sandbox.seed],
        CODE: code_digest(
            "pipelines.polygons",
            "pipelines.stages.sites",
            "pipelines.stages.strata",
            "pipelines.stages.survey",
            "pipelines.catalogs",
        ),
    }
    return {name: _digest(stable_json(value).encode()) for name, value in parts.items()}


def identity_of(parts: dict[str, str]) -> str:
    """One hash of all parts."""
    return _digest(stable_json(parts).encode())


def differences(made_for: dict[str, str], parts: dict[str, str]) -> list[str]:
    """The parts in which a plan on storage is of something else."""
    return [name for name in parts if made_for.get(name) != parts[name]]


def _content(path: str) -> str:
    """Digest of a file of this machine; the address of one elsewhere, or of none."""
    file = Path(path)
    return _digest(file.read_bytes()) if "://" not in path and file.is_file() else path


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
