from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np
import pytest
from pyproj import Transformer
from shapely import box

from pipelines.catalogs.sign import Earthdata
from pipelines.coregister.lidar import EPOCH_MS, read_points
from pipelines.coregister.ranged import BLOCK_BYTES
from pipelines.grid import Period
from pipelines.scenes import Asset, Scene
from pipelines.sources import source
from tests.coregister.files import EPSG, LEFT, TOP, window
from tests.coregister.served import serve

GEDI = source("gedi")
YEAR = Period.calendar_year(2020)
DAYS_TO_2020 = 730


def granule(path: Path, beams: dict[str, dict[str, np.ndarray]], drop: tuple[str, ...] = ()) -> Path:
    """Shots at window pixels (row, col), given per beam; the height at percent p of shot k is 100 k + p."""
    back = Transformer.from_crs(EPSG, 4326, always_xy=True)
    with h5py.File(path, "w") as file:
        file.create_group("METADATA")
        for beam, shots in beams.items():
            group = file.create_group(beam)
            pixel = np.asarray(shots["pixel"], float)
            lon, lat = back.transform(LEFT + pixel[:, 1] * 10 + 5, TOP - pixel[:, 0] * 10 - 5)
            count = len(pixel)
            columns = {
                "lat_lowestmode": lat,
                "lon_lowestmode": lon,
                "rh": np.arange(count)[:, None] * 100.0 + np.arange(101),
                "quality_flag": np.ones(count, np.uint8),
                "degrade_flag": np.zeros(count, np.uint8),
                "sensitivity": np.full(count, 0.95),
                "delta_time": np.full(count, DAYS_TO_2020 * 86_400.0) + np.arange(count),
            } | {name: np.asarray(values) for name, values in shots.items() if name != "pixel"}
            for name, values in columns.items():
                if name not in drop:
                    group.create_dataset(name, data=values)
    return path


def scene(href: object) -> Scene:
    return Scene("gedi", "g", "test", "GEDI", 0, (0, 1), box(2, 49, 4, 52), {"data": Asset(str(href), "data")})


def test_good_shots_inside_land_on_their_pixels_with_all_heights(tmp_path):
    beams = {
        "BEAM0101": {"pixel": [(3, 4), (39, 47), (40, 4), (3, 48), (-1, 0)]},
        "BEAM0000": {"pixel": [(10, 11)]},
    }
    samples, failures = read_points([scene(granule(tmp_path / "g.h5", beams))], window(), YEAR, GEDI)
    assert failures == []
    found = dict(zip(zip(samples.row.tolist(), samples.col.tolist(), strict=True), samples.values, strict=True))
    assert set(found) == {(3, 4), (39, 47), (10, 11)}
    np.testing.assert_array_equal(found[39, 47], 100 + np.arange(101))
    assert sorted(samples.time_ms.tolist()) == [EPOCH_MS + DAYS_TO_2020 * 86_400_000 + k for k in (0, 0, 1000)]
    assert samples.values.dtype == np.float32


@pytest.mark.parametrize(
    ("column", "values"),
    [("quality_flag", [1, 0, 1]), ("degrade_flag", [0, 30, 0]), ("sensitivity", [0.9, 0.89, 0.99])],
)
def test_bad_shots_are_dropped(tmp_path, column: str, values: list[float]):
    path = granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(1, 1), (2, 2), (3, 3)], column: values}})
    samples, _ = read_points([scene(path)], window(), YEAR, GEDI)
    assert samples.row.tolist() == [1, 3]


def test_shots_of_another_year_are_dropped(tmp_path):
    seconds = [DAYS_TO_2020 * 86_400.0 - 1, DAYS_TO_2020 * 86_400.0]
    path = granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(1, 1), (2, 2)], "delta_time": seconds}})
    samples, _ = read_points([scene(path)], window(), YEAR, GEDI)
    assert samples.row.tolist() == [2]


def test_shots_without_every_height_are_dropped(tmp_path):
    heights = np.tile(np.arange(101.0), (4, 1))
    heights[1, 50], heights[2, 98] = -9999, np.nan
    shots = {"pixel": [(1, 1), (2, 2), (3, 3), (4, 4)], "rh": heights}
    samples, _ = read_points([scene(granule(tmp_path / "g.h5", {"BEAM0101": shots}))], window(), YEAR, GEDI)
    assert samples.row.tolist() == [1, 4] and samples.time_ms.size == 2
    np.testing.assert_array_equal(samples.values, heights[[0, 3]])


def test_a_release_without_the_flag_that_came_later(tmp_path):
    path = granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(1, 1)]}}, drop=("degrade_flag",))
    samples, failures = read_points([scene(path)], window(), YEAR, GEDI)
    assert failures == [] and samples.row.tolist() == [1]


@pytest.mark.parametrize("column", ["quality_flag", "sensitivity"])
def test_a_granule_that_says_nothing_of_its_quality_is_refused(tmp_path, column: str):
    path = granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(1, 1)]}}, drop=(column,))
    samples, failures = read_points([scene(path)], window(), YEAR, GEDI)
    assert samples.row.size == 0 and failures[0].kind == "unusable" and column in failures[0].reason


@pytest.mark.parametrize("remote", [False, True])
def test_a_file_that_is_no_hdf5_is_corrupt_and_not_missing(tmp_path, remote):
    (tmp_path / "g.h5").write_bytes(b"junk" * 100)
    with serve(tmp_path) as server:
        href = f"{server.url}/g.h5" if remote else str(tmp_path / "g.h5")
        _, (failure,) = read_points([scene(href)], window(), YEAR, GEDI)
    assert failure.kind == "corrupt"


@pytest.mark.parametrize("fault", [503, 404, 403, "truncate"])
@pytest.mark.parametrize("when", [0, 2])
def test_the_same_over_http_and_a_passing_fault_is_outlived(tmp_path, fault, when: int):
    shots = [(k % 40, k % 48) for k in range(1500)]  # more than two blocks of heights
    path = granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": shots}, "BEAM0110": {"pixel": shots}})
    near, _ = read_points([scene(path)], window(), YEAR, GEDI)
    with serve(tmp_path, lambda path, seen: fault if seen == when else None) as server:
        far, failures = read_points([scene(f"{server.url}/g.h5")], window(), YEAR, GEDI)
    assert failures == []
    np.testing.assert_array_equal(near.values, far.values)
    np.testing.assert_array_equal(near.row, far.row)


def test_a_granule_behind_a_login_is_read_with_the_token_and_storage_never_sees_it(tmp_path, monkeypatch):
    path = granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(k % 40, k % 48) for k in range(1500)]}})
    near, _ = read_points([scene(path)], window(), YEAR, GEDI)
    monkeypatch.setenv("EARTHDATA_TOKEN", "abc")
    with serve(tmp_path) as storage, serve(tmp_path, lambda path, seen: elsewhere, demand="Bearer abc") as archive:
        # The same machine by another name: another host.
        elsewhere = f"{storage.url.replace('127.0.0.1', 'localhost')}/g.h5?signature=x"
        signer = Earthdata(hosts=("127.0.0.1",))
        far, failures = read_points([scene(f"{archive.url}/g.h5")], window(), YEAR, GEDI, {"test": signer})
    assert failures == []
    np.testing.assert_array_equal(near.values, far.values)
    assert set(archive.authorizations) == {"Bearer abc"}
    assert len(storage.authorizations) > 1 and set(storage.authorizations) == {None}


def test_without_a_token_the_redirect_to_the_login_host_is_given_name_and_password(tmp_path, monkeypatch):
    granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(1, 2)]}})
    (tmp_path / ".netrc").write_text("machine localhost login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.delenv("EARTHDATA_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(tmp_path, demand="Basic bWU6c2VjcmV0") as login, serve(tmp_path, lambda path, seen: there) as archive:
        there = f"{login.url.replace('127.0.0.1', 'localhost')}/g.h5"
        signer = Earthdata(hosts=("127.0.0.1",), login="localhost")
        samples, failures = read_points([scene(f"{archive.url}/g.h5")], window(), YEAR, GEDI, {"test": signer})
    assert failures == [] and samples.row.tolist() == [1]
    assert set(archive.authorizations) == {None}


def test_a_granule_with_a_signature_is_read_without_saying_it(tmp_path, caplog):
    granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(1, 2)]}})
    with serve(tmp_path) as server, caplog.at_level(logging.INFO):
        signed = {"test": lambda href: f"{href}?sig=very-secret"}
        samples, failures = read_points([scene(f"{server.url}/g.h5")], window(), YEAR, GEDI, signed)
    assert failures == [] and samples.row.tolist() == [1] and "very-secret" in server.requests[0]
    assert f"{server.url}/g.h5?..." in caplog.text and "very-secret" not in caplog.text


def test_a_login_that_is_missing_is_said(tmp_path, monkeypatch):
    granule(tmp_path / "g.h5", {"BEAM0101": {"pixel": [(1, 2)]}})
    monkeypatch.delenv("EARTHDATA_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve(tmp_path, demand="Bearer abc") as archive:
        _, (failure,) = read_points([scene(f"{archive.url}/g.h5")], window(), YEAR, GEDI, {"test": Earthdata()})
    assert failure.kind == "expired" and "wants a login, and none is known here" in failure.reason


def test_only_the_beams_columns_and_rows_that_are_needed_are_fetched(tmp_path):
    """Four beams of 8000 shots, one of which crosses the window with twenty of them."""
    count, first = 8000, 5000
    far = np.full((count, 2), -30_000)  # 300 km away
    near = far.copy()
    near[first : first + 20] = [(k, k + 5) for k in range(20)]
    beams = {name: {"pixel": far} for name in ("BEAM0000", "BEAM0001", "BEAM0010")} | {"BEAM0101": {"pixel": near}}
    path = granule(tmp_path / "g.h5", beams)
    with h5py.File(path, "a") as file:  # a column that nobody asked for
        file["BEAM0101"].create_dataset("rx_cumulative_energy", data=np.zeros((count, 101)))
    # Of every beam its positions; of one beam 20 rows of heights and what is beside the flags in the same blocks.
    positions = len(beams) * 2 * count * 8
    with serve(tmp_path) as server:
        samples, failures = read_points([scene(f"{server.url}/g.h5")], window(), YEAR, GEDI)
        sent, asked = server.sent, len(server.requests)
    assert failures == [] and samples.row.tolist() == list(range(20))
    np.testing.assert_array_equal(samples.values[:, 7], (first + np.arange(20)) * 100 + 7)
    size = path.stat().st_size
    assert size > 30e6 and sent < positions + 14 * BLOCK_BYTES and sent < size / 6
    assert asked == -(-sent // BLOCK_BYTES)


def test_the_next_window_of_a_granule_fetches_the_positions_near_it_only(tmp_path):
    count = 200_000  # along the window's column
    path = granule(
        tmp_path / "g.h5", {"BEAM0101": {"pixel": np.stack([np.arange(count), np.full(count, 5)], 1)}}, drop=("rh",)
    )
    with h5py.File(path, "a") as file:
        file["BEAM0101"].create_dataset("rh", (count, 101), "f4", chunks=(1000, 101))  # of which none is written
    other = window(row=10_000)
    near, _ = read_points([scene(path)], other, YEAR, GEDI)
    with serve(tmp_path) as server:
        there = [scene(f"{server.url}/g.h5")]
        read_points(there, window(), YEAR, GEDI)
        first = server.sent
        far, failures = read_points(there, other, YEAR, GEDI)
        second = server.sent - first
    assert failures == [] and len(far.row) == 40
    np.testing.assert_array_equal(near.row, far.row)
    np.testing.assert_array_equal(near.time_ms, far.time_ms)
    assert second < first - 0.7 * (2 * count * 8)
