"""One callable that opens the addresses of scenes from several catalogs."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.catalogs import Signer
from pipelines.config import Config
from pipelines.scenes import Scene
from pipelines.stages.plan import open_catalogs


class SceneSigner:
    """Unsigned address to one that can be opened, by the catalog that named the address."""

    def __init__(self, signers: Mapping[str, Signer], catalog_of: Mapping[str, str]) -> None:
        self.signers, self.catalog_of = dict(signers), dict(catalog_of)

    def __call__(self, href: str) -> str:
        return self.signers[self.catalog_of[href]](href)


def scene_signer(config: Config, scenes: Mapping[str, list[Scene]]) -> SceneSigner:
    """The signer of some scenes by source."""
    catalog_of = {
        asset.href: scene.catalog for found in scenes.values() for scene in found for asset in scene.assets.values()
    }
    return SceneSigner({name: catalog.signer for name, catalog in open_catalogs(config).items()}, catalog_of)
