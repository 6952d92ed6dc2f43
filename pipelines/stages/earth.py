"""The sandbox as a stage: build the synthetic Earth, and serve its (or another static) catalog while stages need it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipelines.config import Config, ConfigError
from pipelines.stages.session import Progress, StageResult


def build_earth(config: Config) -> StageResult:
    """Build the configured synthetic Earth where it does not stand yet."""
    from pipelines.sandbox.build import build

    assert config.sandbox is not None and config.sandbox.size is not None
    result = StageResult("sandbox", "items")
    built = build(
        config.sandbox_path,
        config.sandbox.size,
        config.sandbox.seed,
        workers=config.sandbox.workers,
        progress=Progress("sandbox", "items"),
    )
    result.written = built.built
    result.planned = max(sum(built.items.values()), built.built)
    result.skipped = result.planned - result.written
    result.details = {"items": built.items, "bytes": built.bytes}
    if not built.built:
        print(f"[sandbox] already built at {config.sandbox_path}")
    return result


@contextlib.contextmanager
def served_catalog(config: Config) -> Iterator[None]:
    """The sandbox server running for the time of the block; nothing where the configuration has no sandbox."""
    if config.sandbox is None:
        yield
        return
    from pipelines.sandbox.process import running_server

    catalog = Path(config.sandbox.catalog) if config.sandbox.catalog else config.sandbox_path / "catalog"
    if not (catalog / "catalog.json").is_file():
        raise ConfigError(f"sandbox.catalog: no catalog.json in {catalog}; give a static STAC catalog folder")
    with running_server(catalog, host=config.sandbox.host, port=config.sandbox.port, faults=config.sandbox.faults):
        yield
