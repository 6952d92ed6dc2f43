"""How many files are read at once: as a stage is told, and never more of a catalog than its archive allows."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.catalogs import reads_at_once
from pipelines.config import Config, ConfigError


def threads_by_source(config: Config, readers: int) -> dict[str, int]:
    """Concurrent reads of each source within one of several readers."""
    limits = dict(_limits(config))
    most = config.ingest.threads
    return {
        name: min(most, max(limits[source.catalog] // readers, 1)) if source.catalog in limits else most
        for name, source in config.sources.items()
    }


def check_readers(config: Config, key: str, readers: int) -> None:
    """Whether so many readers, with one connection each, are within every archive's limit.

    Raises:
        ConfigError: naming the key and the catalog.
    """
    for catalog, limit in _limits(config):
        if readers > limit:
            raise ConfigError(
                f"{key}: {readers} readers are more than the {limit} connections that the archive of catalog {catalog} "
                f"allows at once; lower {key}, or raise catalogs.{catalog}.options.reads if your account allows more"
            )


def _limits(config: Config) -> Iterator[tuple[str, int]]:
    used = {source.catalog for source in config.sources.values()}
    for name, catalog in config.catalogs.items():
        limit = reads_at_once(catalog.kind, catalog.options)
        if name in used and limit is not None:
            yield name, limit
