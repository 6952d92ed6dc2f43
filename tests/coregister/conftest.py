"""Tests of reading wait hardly for a server that is told to fail."""

import pytest

from pipelines.coregister import fetch, zarr_store
from pipelines.coregister.engines.base import GDAL_ENV


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Pauses of 10 ms at first in place of 250, and GDAL's own in place of 200."""
    for module in (fetch, zarr_store):
        monkeypatch.setattr(module, "BACKOFF_S", 0.01)
    monkeypatch.setitem(GDAL_ENV, "GDAL_HTTP_RETRY_DELAY", 0.01)
