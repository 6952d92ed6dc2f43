"""The signers of the configured catalogs, by the names that scenes carry."""

from __future__ import annotations

from pipelines.catalogs import Signer
from pipelines.config import Config
from pipelines.stages.plan import open_catalogs


def signers(config: Config) -> dict[str, Signer]:
    """What opens the addresses of each catalog's scenes."""
    return {name: catalog.signer for name, catalog in open_catalogs(config).items()}
