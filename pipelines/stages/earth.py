"""The sandbox as a stage: build the synthetic Earth, and serve its (or another static) catalog while stages need it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from shapely.geometry.base import BaseGeometry

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
        progress=Progress("sandbox", "jobs"),
    )
    result.written, result.planned = built.built, sum(built.items.values())
    result.skipped = result.planned - result.written
    result.details = {"items": built.items, "bytes": built.bytes}
    if not built.built:
        print(f"[sandbox] already built at {config.sandbox_path}")
    return result


def describe_earth(config: Config) -> bool:
    """Print what would be built, where the configured synthetic Earth is not complete; whether that is so."""
    from pipelines.sandbox.parameters import parameters_for

    if config.sandbox is None or config.sandbox.size is None:
        return False
    manifest = config.sandbox_path / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text())["complete"]:
        return False
    size, seed, path = config.sandbox.size, config.sandbox.seed, config.sandbox_path
    world = parameters_for(size, seed)
    print(
        f"[sandbox] would build the {size} synthetic Earth at {path}: {world.width_m / 1e3:g} x "
        f"{world.height_m / 1e3:g} km around {world.centre_lat:g} N {world.centre_lon:g} E, years "
        f"{', '.join(map(str, world.years))}, seed {seed}"
    )
    return True


def ground_of(config: Config) -> tuple[BaseGeometry, tuple[float, float, float, float]]:
    """Outline of the configured synthetic Earth and the box held out for testing (WGS 84); it need not be built."""
    from pipelines.sandbox.build import outline, split_lines
    from pipelines.sandbox.parameters import parameters_for

    assert config.sandbox is not None and config.sandbox.size is not None
    world = parameters_for(config.sandbox.size, config.sandbox.seed)
    ground = outline(world)
    _, south, east, north = (round(value, 7) for value in ground.bounds)
    return ground, (split_lines(world)[1], south - 0.1, east + 0.1, north + 0.1)


def area_of(config: Config) -> BaseGeometry:
    """The configured area, or that of the synthetic Earth."""
    return ground_of(config)[0] if config.area is None else config.area.geometry()


def test_area_of(config: Config) -> tuple[float, float, float, float] | None:
    """The region held out for testing: the configured one, or that of the synthetic Earth."""
    if config.plan.test_area is not None or config.sandbox is None or config.sandbox.size is None:
        return config.plan.test_area
    return ground_of(config)[1]


def live_catalog(config: Config) -> str | None:
    """URL of a configured sandbox server that answers already, started by someone else; None without one."""
    from pipelines.sandbox.process import answers

    urls = {part.url for part in config.catalogs.values() if part.kind == "sandbox"}
    return next((url for url in sorted(urls) if answers(url)), None)


def check_served(config: Config) -> None:
    """Whether catalogs of the sandbox's kind point to the server that is to be started.

    Raises:
        ConfigError: when they point to another port.
    """
    for name, part in config.catalogs.items():
        if config.sandbox is not None and part.kind == "sandbox" and urlsplit(part.url).port != config.sandbox.port:
            raise ConfigError(
                f"catalogs.{name}.url: {part.url} is not where the sandbox is served (sandbox.port: "
                f"{config.sandbox.port}); give both the same port"
            )


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
