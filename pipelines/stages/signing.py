"""The signers of the configured catalogs, by the names that scenes carry: one for each catalog and process.

They hold the tokens of a process, and the stores that were opened with them are remembered by them, so every part of
a stage must be given the same ones.
"""

from __future__ import annotations

import json
import threading
from functools import lru_cache

from pipelines.catalogs import Signer, open_catalog
from pipelines.config import Config

_LOCK = threading.Lock()


def signers(config: Config) -> dict[str, Signer]:
    """What opens the addresses of each catalog's scenes; the same objects for equal settings of a catalog."""
    used = {source.catalog for source in config.sources.values()}
    with _LOCK:  # two threads that find none would make two
        return {
            name: _signer(name, json.dumps(part.model_dump(mode="json"), sort_keys=True))
            for name, part in config.catalogs.items()
            if name in used
        }


@lru_cache(maxsize=64)
def _signer(name: str, settings: str) -> Signer:
    given = json.loads(settings)
    return open_catalog(name, given["kind"], given["url"], **given["options"]).signer
