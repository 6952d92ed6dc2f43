"""A tiny sandbox, built once for the tests of this folder."""

import pytest

from pipelines.sandbox.build import build


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return build(tmp_path_factory.mktemp("sandbox"), "tiny", seed=3, workers=0)
