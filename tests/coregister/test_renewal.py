"""Signatures that end while a file is being read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.coregister.engines import ENGINES, cog, engine
from pipelines.coregister.fetch import FailureKind, Request, fetch, renewed
from tests.coregister.files import LEFT, TOP, asset_of, noise, window, write_raster
from tests.coregister.served import serve


class Signer:
    """Numbers its signatures; a refused one is followed by the next."""

    def __init__(self) -> None:
        self.generation = 0
        self.invalidated: list[str] = []

    def __call__(self, href: str) -> str:
        return f"{href}?token={self.generation}"

    def invalidate(self, href: str) -> None:
        self.invalidated.append(href)
        self.generation += 1


def requested(path, url: str, sign: Signer) -> Request:
    asset = replace(asset_of(path), href=f"{url}/{path.name}")
    return Request(asset, window(3, 4, 500, 400), "uint16", 0, sign)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("answered", [0, 1])
def test_a_signature_that_ends_in_mid_read_is_renewed_once(tmp_path, name: str, answered: int):
    """The first request is answered, or none; all that is then asked with the old signature is refused."""
    path, sign = write_raster(tmp_path / "a.tif", noise((2000, 600), 1), LEFT, TOP, 10), Signer()
    with serve(tmp_path, lambda path, seen: 403 if path.endswith("=0") and seen >= answered else None) as server:
        request = requested(path, server.url, sign)
        fetch([request], engine(name), threads=1)
        old = [one for one in server.requests if one.endswith("token=0")]
        assert len(old) > answered, "the signature outlived the read"
        assert sign.invalidated == [f"{server.url}/a.tif"]
    assert request.failure is None and request.pixels is not None
    col, row = request.origin
    height, width = request.pixels.shape
    np.testing.assert_array_equal(request.pixels, noise((2000, 600), 1)[row : row + height, col : col + width])


def test_a_renewal_in_mid_read_reads_nothing_twice(tmp_path):
    path = write_raster(tmp_path / "a.tif", noise((2000, 600), 1), LEFT, TOP, 10)
    counts = []
    for spoil in (lambda path, seen: None, lambda path, seen: 403 if path.endswith("=0") and seen >= 1 else None):
        cog.forget_files()
        with serve(tmp_path, spoil) as server:
            request = requested(path, server.url, Signer())
            fetch([request], engine("cog"), threads=1)
        assert request.failure is None and request.attempts == 0
        counts.append(len(server.requests))
    assert counts[1] == counts[0] + 1


def test_readers_that_are_refused_together_renew_once():
    sign = Signer()
    assert [renewed(sign, "x", "x?token=0") for _ in range(3)] == ["x?token=1"] * 3
    assert sign.invalidated == ["x"]


def test_a_header_is_known_under_any_signature(tmp_path):
    path, sign = write_raster(tmp_path / "a.tif", noise((2000, 600), 1), LEFT, TOP, 10), Signer()
    cog.forget_files()
    with serve(tmp_path) as server:
        fetch([requested(path, server.url, sign)], engine("cog"), threads=1)
        first = len(server.requests)
        sign.invalidate("all")
        cog.BLOCKS.clear()
        fetch([requested(path, server.url, sign)], engine("cog"), threads=1)
        again = server.requests[first:]
    assert len(again) == first - 1 and all(one.endswith("token=1") for one in again)


@pytest.mark.parametrize("name", ENGINES)
def test_access_that_no_signature_gives_ends_as_a_failure(tmp_path, name: str):
    path, sign = write_raster(tmp_path / "a.tif", noise((200, 200), 1), LEFT, TOP, 10), Signer()
    with serve(tmp_path, lambda path, seen: 403) as server:
        request = requested(path, server.url, sign)
        fetch([request], engine(name), threads=1)
    assert request.pixels is None and request.failure is not None and request.failure.kind is FailureKind.EXPIRED
    # The block engine renews within a read too.
    assert len(sign.invalidated) == (5 if name == "cog" else 2)
