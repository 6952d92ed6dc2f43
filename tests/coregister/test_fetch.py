from __future__ import annotations

import errno
import shutil
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from pyproj import CRS, Transformer

from pipelines.catalogs.sign import Buckets
from pipelines.coregister import read_frames
from pipelines.coregister.engines import ENGINES, CorruptBlock, FileGrid, Header, engine
from pipelines.coregister.fetch import Failure, FailureKind, Request, classify, fetch, retrying
from pipelines.grid import Window
from pipelines.scenes import Asset
from pipelines.sources import source
from tests.coregister.files import EPSG, LEFT, TOP, asset_of, footprint_of, noise, scene_of, window, write_raster
from tests.coregister.served import serve


def request_of(path, url: str, sign=None, **fields) -> Request:
    asset = replace(asset_of(path), href=f"{url}/{path.name}")
    return Request(replace(asset, **fields), window(3, 4, 50, 40), "uint16", 0, sign, footprint=footprint_of(path))


@pytest.fixture
def raster(tmp_path):
    return write_raster(tmp_path / "a.tif", noise((300, 300), 1), LEFT, TOP, 10)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("fault", [429, 503, 500, 404, 403, "truncate"])
@pytest.mark.parametrize("when", [0, 1, 2])
def test_a_passing_fault_leaves_no_trace_in_the_pixels(raster, tmp_path, name: str, fault, when: int):
    with serve(tmp_path, lambda path, seen: fault if seen == when else None) as server:
        request = request_of(raster, server.url)
        fetch([request], engine(name), threads=1)
    assert request.failure is None and request.pixels is not None
    col, row = request.origin
    height, width = request.pixels.shape
    np.testing.assert_array_equal(request.pixels, noise((300, 300), 1)[row : row + height, col : col + width])


@pytest.mark.parametrize(("fault", "times"), [(None, 0), (404, 1), (403, 1), (500, 3), (503, 4)])
def test_a_passing_fault_of_a_bucket_leaves_no_trace_either(raster, tmp_path, monkeypatch, fault, times: int):
    monkeypatch.setenv("AWS_HTTPS", "NO")
    bucket = f"passing-{fault}"  # GDAL remembers addresses
    (tmp_path / bucket).mkdir()
    shutil.copy(raster, tmp_path / bucket)
    with serve(tmp_path, lambda path, seen: fault if seen < times else None) as server:
        request = request_of(raster, f"s3://{bucket}", Buckets(server.url.removeprefix("http://")))
        fetch([request], engine("cog"), threads=1)
    assert request.failure is None and request.pixels is not None
    assert len(server.requests) > times


@pytest.mark.parametrize(
    ("fault", "kind"), [(404, "missing"), (403, "expired"), (500, "transient"), (503, "throttled")]
)
def test_a_lasting_fault_of_a_bucket_is_named_by_its_class(raster, tmp_path, monkeypatch, fault: int, kind: str):
    monkeypatch.setenv("AWS_HTTPS", "NO")
    with serve(tmp_path, lambda path, seen: fault) as server:
        request = request_of(raster, f"s3://lasting-{fault}", Buckets(server.url.removeprefix("http://")))
        fetch([request], engine("cog"), threads=1)
    assert request.failure is not None and request.failure.kind == kind, request.failure


@pytest.mark.parametrize(
    ("fault", "kind"), [(429, FailureKind.THROTTLED), (503, FailureKind.THROTTLED), (404, FailureKind.MISSING)]
)
def test_a_lasting_fault_is_named_by_its_class_and_spares_its_neighbours(raster, tmp_path, fault, kind):
    other = write_raster(tmp_path / "b.tif", noise((300, 300), 2), LEFT, TOP, 10)
    with serve(tmp_path, lambda path, seen: fault if path == "/a.tif" else None) as server:
        broken, sound = request_of(raster, server.url), request_of(other, server.url)
        fetch([broken, sound], engine("rasterio"), threads=2)
    assert broken.pixels is None and broken.failure is not None and broken.failure.kind is kind
    assert sound.failure is None and sound.pixels is not None


class Failing:
    """An engine whose reads fail in some ways, one after the other, before the first that is sound."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)

    def read(self, crops, threads):
        if self.statuses:
            return [OSError(f"HTTP response code: {self.statuses.pop(0)}")]
        return engine("rasterio").read(crops, threads)


@pytest.mark.parametrize("statuses", [(503, 404), (500, 404, 503), (403, 404, 500)])
def test_not_found_after_other_failures_is_no_missing_file_yet(raster, tmp_path, statuses):
    request = request_of(raster, str(tmp_path))
    fetch([request], Failing(*statuses), threads=1)
    assert request.failure is None and request.pixels is not None and request.attempts == len(statuses)
    lost = request_of(raster, str(tmp_path))
    fetch([lost], Failing(*statuses, 404, 404), threads=1)
    assert lost.failure is not None and lost.failure.kind is FailureKind.MISSING


def test_not_found_after_other_failures_is_no_missing_file_for_single_files_either():
    statuses = [503, 404]

    def action(href: str) -> str:
        if statuses:
            raise OSError(f"HTTP response code: {statuses.pop(0)}")
        return "content"

    assert retrying(action, "https://x/a.h5", None) == "content"


class Signer:
    """Signatures that the server refuses until they are renewed."""

    def __init__(self) -> None:
        self.generation = 0
        self.invalidated: list[str] = []

    def __call__(self, href: str) -> str:
        return f"{href}?token={self.generation}"

    def invalidate(self, href: str) -> None:
        self.invalidated.append(href)
        self.generation += 1


def test_an_expired_signature_is_renewed(raster, tmp_path):
    sign = Signer()
    with serve(tmp_path, lambda path, seen: None if path.endswith("token=1") else 403) as server:
        request = request_of(raster, server.url, sign)
        fetch([request], engine("rasterio"), threads=1)
        assert sign.invalidated == [f"{server.url}/a.tif"]
    assert request.failure is None and request.pixels is not None


def test_a_wrong_description_is_corrected_by_the_file(raster, tmp_path):
    wrong = request_of(raster, str(tmp_path), transform=(10, 0, LEFT + 500, 0, -10, TOP))
    right = request_of(raster, str(tmp_path))
    fetch([wrong, right], engine("stackstac"), threads=1)
    assert wrong.origin == right.origin
    np.testing.assert_array_equal(wrong.pixels, right.pixels)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("fields", [{"epsg": EPSG + 1}, {"transform": (10, 0, LEFT + 90_000, 0, -10, TOP)}])
def test_a_scene_whose_stated_grid_lies_elsewhere_is_where_its_file_says(raster, tmp_path, name, fields):
    wrong, right = request_of(raster, str(tmp_path), **fields), request_of(raster, str(tmp_path))
    fetch([wrong, right], engine(name), threads=1)
    assert wrong.failure is None and wrong.origin == right.origin
    np.testing.assert_array_equal(wrong.pixels, right.pixels)


def test_a_window_beside_a_scene_whose_grid_and_footprint_agree_asks_for_nothing(raster, tmp_path):
    with serve(tmp_path) as server:
        aside = request_of(raster, server.url)
        aside.window = window(400, 0, 16, 16)
        fetch([aside], engine("cog"), threads=1)
        assert aside.failure is None and aside.pixels is None and server.requests == []


def test_a_server_that_is_busy_when_a_file_is_asked_where_it_lies_loses_no_scene(raster, tmp_path):
    with serve(tmp_path, lambda path, seen: 503 if seen == 0 else None) as server:
        wrong = request_of(raster, server.url, epsg=EPSG + 1)
        fetch([wrong], engine("cog"), threads=1)
        assert wrong.failure is None and wrong.pixels is not None


def test_an_address_of_a_file_may_be_escaped(raster, tmp_path):
    folder = tmp_path / "a b%20c"
    folder.mkdir()
    shutil.copy(raster, folder / "a.tif")
    for address in (folder.as_uri(), f"file://{folder}"):
        request = request_of(raster, address)
        fetch([request], engine("rasterio"), threads=1)
        assert request.failure is None and request.pixels is not None


def test_a_small_file_takes_few_requests(raster, tmp_path):
    """No probes for sidecar files, and the header comes with the first bytes."""
    with serve(tmp_path) as server:
        request = request_of(raster, server.url)
        fetch([request], engine("rasterio"), threads=1)
        assert request.pixels is not None
        assert len(server.requests) <= 4, server.requests
        assert {path.split()[1] for path in server.requests} == {"/a.tif"}


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("HTTP response code: 503", FailureKind.THROTTLED),
        ("HTTP response code: 403", FailureKind.EXPIRED),
        ("HTTP response code: 404", FailureKind.MISSING),
        ("CURL error: Operation timed out after 60000 ms", FailureKind.TRANSIENT),
        ("HTTP response code: 400", FailureKind.EXPIRED),
        ("HTTP response code: 524", FailureKind.TRANSIENT),
        ("Server disconnected", FailureKind.TRANSIENT),
        ("TIFFReadEncodedTile() failed", FailureKind.CORRUPT),
        ("/vsicurl/https://host/S2_403_404_503/B04.tif: TIFFFillTile: Read error", FailureKind.CORRUPT),
    ],
)
def test_classes_of_failure(message: str, kind: FailureKind):
    assert classify(OSError(message)) is kind
    outer = RuntimeError("Read failed")
    outer.__cause__ = OSError(message)
    assert classify(outer) is kind


class ServerDisconnectedError(Exception):
    """As aiohttp's, which may say nothing but its name."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ServerDisconnectedError(), FailureKind.TRANSIENT),
        (OSError(errno.EMFILE, "Too many open files"), FailureKind.TRANSIENT),
        (OSError(errno.EIO, "Input/output error"), FailureKind.TRANSIENT),
        (MemoryError(), FailureKind.TRANSIENT),
        (PermissionError(errno.EACCES, "Permission denied"), FailureKind.REFUSED),
        (ImportError("Please install gcsfs to access Google Storage"), FailureKind.REFUSED),
        (type("NoCredentialsError", (Exception,), {})("Unable to locate credentials"), FailureKind.REFUSED),
        (OSError("a file that ends early"), FailureKind.CORRUPT),
    ],
)
def test_trouble_of_this_machine_or_of_the_way_is_no_fault_of_the_file(error: Exception, kind: FailureKind):
    assert classify(error) is kind


@pytest.mark.parametrize("name", ENGINES)
def test_a_crs_that_the_catalog_has_wrong_is_corrected_by_the_file(tmp_path, name: str):
    """Zones share origins, so that a file of the next one may have the very transform; it is elsewhere."""
    path = write_raster(tmp_path / "a.tif", noise((300, 300), 1), LEFT, TOP, 10, epsg=EPSG + 1)
    found = Request(replace(asset_of(path), epsg=EPSG), window(3, 4, 50, 40), "uint16", 0)
    fetch([found], engine(name), threads=1)
    assert found.failure is None and found.pixels is None
    assert found.grid.epsg == EPSG + 1 and found.attempts == 1


@pytest.mark.parametrize("name", ENGINES)
def test_a_crs_without_a_code_is_used_as_the_file_has_it(tmp_path, name: str):
    """Albers' projection on WGS 84, in which maps of the United States' land cover are given out."""
    albers = CRS.from_proj4("+proj=aea +lat_1=29.5 +lat_2=45.5 +lat_0=23 +lon_0=-96 +datum=WGS84 +units=m")
    assert albers.to_epsg() is None
    box = Window(32613, 500_000, 4_400_000, 60, 50)
    x, y = np.meshgrid(*box.centres())
    to_file = Transformer.from_crs(box.epsg, albers, always_xy=True)
    x, y = to_file.transform(x, y)
    left, top = float(x.min()) // 30 * 30 - 300, float(y.max()) // 30 * 30 + 300
    codes = np.random.default_rng(1).integers(11, 96, (60, 60)).astype(np.uint8)
    path = write_raster(tmp_path / "nlcd.tif", codes, left, top, 30, epsg=5070)
    with rasterio.open(path, "r+") as file:
        file.crs = albers.to_wkt()
    (band,) = source("landcover").band_names
    scene = scene_of("landcover", "nlcd", {band: write_raster(tmp_path / "b.tif", codes, left, top, 30, epsg=5070)})
    scene = replace(scene, assets={band: asset_of(path, band, described=False)})
    frames, failures = read_frames([scene], box, source("landcover"), engine=name)
    assert failures == []
    expected = codes[np.floor((top - y) / 30).astype(int), np.floor((x - left) / 30).astype(int)]
    assert (frames.values[0, 0] == expected).mean() > 0.999


@pytest.mark.parametrize("name", ENGINES)
def test_a_type_that_the_catalog_does_not_name_is_the_files(tmp_path, name: str):
    path = write_raster(tmp_path / "a.tif", noise((300, 300), 1).astype(np.int16), LEFT, TOP, 10)
    found = Request(replace(asset_of(path), dtype=None), window(3, 4, 50, 40), "uint16", 0)
    fetch([found], engine(name), threads=1)
    assert found.failure is None and found.pixels is not None and found.pixels.dtype == "int16"


def test_an_address_that_is_not_signed_is_refused_and_not_asked_for_again(raster, tmp_path):
    asked = []

    def refuse(href: str) -> str:
        asked.append(href)
        raise ConnectionError("no token: the account is closed (503)")

    request = request_of(raster, str(tmp_path), refuse)
    fetch([request], engine("rasterio"), threads=1)
    assert request.failure is not None and request.failure.kind is FailureKind.REFUSED and len(asked) == 1
    assert "the account is closed" in request.failure.reason
    failure = retrying(lambda href: href, "https://x/a.h5", refuse)
    assert isinstance(failure, Failure) and failure.kind is FailureKind.REFUSED


def test_a_reason_never_shows_a_signature():
    failure = Failure.of(OSError("'/vsicurl/https://h/B04.tif?sig=secret&se=1' not recognized as being supported"))
    assert failure.reason == "OSError: '/vsicurl/https://h/B04.tif?...' not recognized as being supported"


@pytest.mark.parametrize("name", ENGINES)
def test_the_files_own_nodata_holds_where_the_catalog_is_silent(tmp_path, name: str):
    values = noise((300, 300), 1).astype(np.float32)
    values[100:, :] = -9999
    path = write_raster(tmp_path / "a.tif", values, LEFT, TOP, 10, nodata=-9999)
    request = Request(replace(asset_of(path), nodata=None), window(3, 4, 50, 40), "float32", float("nan"))
    fetch([request], engine(name), threads=1)
    assert request.failure is None and request.pixels is not None
    assert request.file_nodata == -9999


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("faults", [(), (503,), (503, 503, 503, 503), (404,), (403,), (500, 404, 503)])
def test_a_description_is_corrected_whatever_failed_before(tmp_path, name: str, faults):
    """The catalog knows neither the file's nodata nor, later, its type."""
    values = noise((300, 300), 1).astype(np.float32)
    path = write_raster(tmp_path / "a.tif", values, LEFT, TOP, 10, nodata=-9999)
    for changes, dtype in (({"nodata": None}, "float32"), ({"dtype": "uint16"}, "uint16")):
        with serve(tmp_path, lambda path, seen: faults[seen] if seen < len(faults) else None) as server:
            asset = replace(asset_of(path), href=f"{server.url}/a.tif", **changes)
            request = Request(asset, window(3, 4, 50, 40), dtype, 0, sign=lambda href: href)
            fetch([request], engine(name), threads=1)
        assert request.failure is None and request.pixels is not None, request.failure
        assert request.pixels.dtype == "float32"


@pytest.mark.parametrize(
    ("dtype", "catalog", "file", "held"),
    [
        ("float32", -999.9, None, float(np.float32(-999.9))),
        ("float32", -3.40282346638529e38, None, float(np.finfo(np.float32).min)),
        ("float32", 1e300, -9999.0, -9999.0),
        ("float32", float("nan"), None, float("nan")),
        ("uint16", -9999.0, 65535.0, 65535.0),
        ("uint16", float("nan"), None, 7.0),
        ("uint16", 65536.0, None, 7.0),
        ("uint16", 0.5, None, 7.0),
        ("int16", -32768.0, 0.0, -32768.0),
        ("uint8", -9999.0, -9999.0, 7.0),
    ],
)
def test_a_number_for_not_measured_is_one_that_the_pixels_hold(dtype, catalog, file, held):
    asset = Asset("/a.tif", "a", nodata=catalog)
    header = Header(FileGrid(EPSG, LEFT, TOP, 10, -10, 30, 30), dtype, file)
    found = Request(asset, window(), dtype, 7.0, header=header).file_nodata
    assert found == held or (np.isnan(found) and np.isnan(held))
    assert np.dtype(dtype).type(found) == found or np.isnan(found)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("step", [10, 20])
def test_a_nodata_that_the_type_cannot_hold_makes_no_pixel(tmp_path, name: str, step):
    """Half the window lies beyond the file, whose catalog says -9999 of unsigned numbers."""
    path = write_raster(tmp_path / "a.tif", np.full((30, 30), 500, np.uint16), LEFT, TOP, step, nodata=None)
    frames, failures = read_frames(
        [scene_of("sentinel2", "a", {"red": path}, nodata=-9999.0)],
        window(0, 0, 6 * step, 3 * step),
        source("sentinel2", ["red"]),
        engine=name,
    )
    assert failures == [] and frames is not None
    assert set(np.unique(frames.values)) == {0, 500}
    assert (frames.weight[0] > 0).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("nodata", [-999.9, 1e20, -3.40282346638529e38, -9999.0])
@pytest.mark.parametrize("name", ["elevation", "sentinel1"])
def test_a_hole_in_single_precision_is_never_averaged_into_the_ground(tmp_path, name, nodata):
    values = np.full((40, 40), 100, np.float32)
    values[10:14, 10:14] = nodata
    path = write_raster(tmp_path / "a.tif", values, LEFT, TOP, 30, nodata=None)
    band, wanted = ("elevation", source("elevation")) if name == "elevation" else ("vv", source("sentinel1", ["vv"]))
    scene = scene_of(name, "a", {band: path}, nodata=nodata)
    frames, _ = read_frames([scene], window(10, 10, 100, 100), wanted)
    assert set(np.unique(frames.values[0, 0])) == {100, wanted.nodata}


@pytest.mark.parametrize("name", ENGINES)
def test_the_catalogs_nodata_wins_and_a_mask_has_none(tmp_path, name: str):
    path = write_raster(tmp_path / "a.tif", noise((300, 300), 1), LEFT, TOP, 10, nodata=7)
    stated = Request(replace(asset_of(path), nodata=3), window(3, 4, 50, 40), "uint16", 0)
    mask = Request(replace(asset_of(path), nodata=None), window(3, 4, 50, 40), "uint16", 0, mask=True)
    fetch([stated, mask], engine(name), threads=1)
    assert (stated.file_nodata, stated.attempts) == (3, 0)
    assert mask.pixels is not None and mask.attempts == 0


def test_a_server_that_says_when_to_come_back_is_obeyed_and_known_as_throttling(raster, tmp_path, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("pipelines.patience.time.sleep", waits.append)
    with serve(tmp_path, lambda path, seen: (429, "7") if seen < 2 else None) as server:
        request = request_of(raster, server.url)
        fetch([request], engine("cog"), threads=1)
        assert request.failure is None and request.pixels is not None
        assert len(waits) == 2 and all(7 <= wait < 9 for wait in waits)
    with serve(tmp_path, lambda path, seen: (503, "1")) as server:
        request = request_of(raster, server.url)
        fetch([request], engine("cog"), threads=1)
        assert request.failure is not None and request.failure.kind is FailureKind.THROTTLED


@pytest.mark.parametrize("block", [(404, 0), (503, 2), (0, 500)])
def test_numbers_in_words_about_a_block_are_no_status(block):
    error = CorruptBlock(f"block {block} holds 429 bytes where 65536 are needed")
    assert classify(error) is FailureKind.CORRUPT
