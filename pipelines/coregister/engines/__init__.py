"""Reading engines behind one interface: ``engine("cog")``, ``engine("rasterio")``, ``engine("stackstac")``."""

from __future__ import annotations

from importlib import import_module

from pipelines.coregister.engines.base import Crop, Engine, FileGrid, Header, HeaderMismatch, read_header
from pipelines.coregister.engines.cog import CorruptBlock
from pipelines.coregister.engines.logs import hide_queries

# Modules beside this one, imported when asked for: stackstac takes a fifth of a second of every process.
ENGINES = {"cog": "CogEngine", "stackstac": "StackstacEngine", "rasterio": "RasterioEngine"}

__all__ = ["ENGINES", "CorruptBlock", "Crop", "Engine", "FileGrid", "Header", "HeaderMismatch", "engine", "read_header"]


def engine(name: str) -> Engine:
    """An engine by name; from then on no log of this process shows the signature of an address.

    Raises:
        ValueError: no such engine.
    """
    if name not in ENGINES:
        raise ValueError(f"there is no reading engine {name!r}; choose among {', '.join(ENGINES)}")
    hide_queries()
    found: Engine = getattr(import_module(f"{__name__}.{name}"), ENGINES[name])()
    return found
