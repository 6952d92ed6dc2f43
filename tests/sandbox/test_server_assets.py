"""Assets of the sandbox's server: byte ranges, stores of many files, and nothing that no item names."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
import rasterio

from pipelines.sandbox.process import running_server, served, set_faults
from tests.catalogs import static_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    with running_server(static_world.write(root)) as url:
        yield url, root


@pytest.fixture
def asset(world):
    url, root = world
    return f"{url}/assets/optical/scene-0/B02.tif", (root / "assets/optical/scene-0/B02.tif").read_bytes()


def test_whole_files_and_heads(asset):
    href, content = asset
    assert httpx.get(href).content == content
    head = httpx.head(href)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(content)) and head.headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "part"),
    [("0-0", slice(0, 1)), ("5-9", slice(5, 10)), ("100-", slice(100, None)), ("-7", slice(-7, None))],
)
def test_a_range_is_that_part_of_the_file(asset, asked, part):
    href, content = asset
    answer = httpx.get(href, headers={"Range": f"bytes={asked}"})
    assert answer.status_code == 206 and answer.content == content[part]
    start = part.indices(len(content))[0]
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.content) - 1}/{len(content)}"


def test_a_range_that_runs_over_the_end_is_cut_and_one_behind_it_refused(asset):
    href, content = asset
    assert httpx.get(href, headers={"Range": f"bytes=5-{10**9}"}).content == content[5:]
    refused = httpx.get(href, headers={"Range": f"bytes={len(content)}-"})
    assert refused.status_code == 416 and refused.headers["content-range"] == f"bytes */{len(content)}"


def test_gdal_reads_the_pixels(asset):
    with rasterio.open(asset[0]) as file:
        np.testing.assert_array_equal(file.read(1), static_world.PIXELS)


def test_a_store_is_served_file_by_file(world):
    assert httpx.get(f"{world[0]}/assets/weather/a.zarr/t/0").content == b"chunk"
    assert httpx.get(f"{world[0]}/assets/weather/a.zarr/t/1").status_code == 404
    assert httpx.get(f"{world[0]}/assets/weather/a.zarr").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["optical/secret.txt", "../secret.txt", "%2e%2e/secret.txt", "weather/a.zarr/../../optical/secret.txt",
     "weather/a.zarr/%2e%2e/%2e%2e/%2e%2e/secret.txt", "/etc/passwd", "weather/a.zarr/link"],
)  # fmt: skip
def test_only_what_items_name_is_served(world, path):
    url, root = world
    link = root / "assets/weather/a.zarr/link"
    if not link.is_symlink():
        link.symlink_to(root / "secret.txt")
    # A raw socket: clients tidy dots away before they send.
    connection = httpx.HTTPTransport()
    host, port = url.removeprefix("http://").split(":")
    request = httpx.Request("GET", url)
    request.url = httpx.URL(scheme="http", host=host, port=int(port), raw_path=f"/assets/{path}".encode())
    answer = connection.handle_request(request)
    answer.read()
    assert answer.status_code == 404
    assert answer.content not in (b"not an asset", b"outside")


def test_served_bytes_and_requests_are_counted(world, asset):
    set_faults(world[0], {})
    httpx.get(asset[0], headers={"Range": "bytes=0-99"})
    httpx.get(asset[0], headers={"Range": "bytes=0-9"})
    assert served(world[0])["requests"] == {"assets": 2}
    assert served(world[0])["body_bytes"] == {"assets": 110}
