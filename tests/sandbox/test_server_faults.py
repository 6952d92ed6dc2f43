"""Faults of the sandbox's server: each is what it says, strikes as often as it says, and the same way every time."""

from __future__ import annotations

import time

import httpx
import pytest

from pipelines.sandbox.faults import Faults, Switchboard, uniform
from pipelines.sandbox.process import running_server, served, set_faults
from tests.catalogs import static_world


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(static_world.write(tmp_path_factory.mktemp("world"))) as url:
        yield url


@pytest.fixture
def asset(server):
    yield f"{server}/assets/optical/scene-0/B02.tif"
    set_faults(server, {})


def test_throttling_and_unavailability(server, asset):
    set_faults(server, {"throttled": {"seconds": 3}})
    assert (httpx.get(asset).status_code, httpx.get(asset).headers["retry-after"]) == (429, "3")
    assert httpx.post(f"{server}/search", json={}).status_code == 429
    set_faults(server, {"503": {"path": "/search"}})
    assert httpx.post(f"{server}/search", json={}).status_code == 503
    assert httpx.get(asset).status_code == 200


def test_latency(server, asset):
    set_faults(server, {"latency": {"seconds": 0.3, "path": "*.tif"}})
    start = time.monotonic()
    httpx.get(asset)
    assert time.monotonic() - start >= 0.3


def test_missing_stays_missing(server, asset):
    set_faults(server, {"missing": {"path": "*scene-0*"}})
    assert [httpx.get(asset).status_code for _ in range(3)] == [404, 404, 404]
    assert httpx.get(asset.replace("scene-0", "scene-1")).status_code == 200


def test_a_truncated_body_breaks_the_connection_half_way(server, asset):
    whole = len(httpx.get(asset).content)
    set_faults(server, {"truncated": 1})
    received = 0
    with pytest.raises(httpx.RemoteProtocolError), httpx.stream("GET", asset) as answer:
        assert answer.headers["content-length"] == str(whole)
        for chunk in answer.iter_raw():
            received += len(chunk)
    assert received == whole // 2


def test_pages_above_a_limit_fail_as_those_of_a_gateway(server, asset):
    set_faults(server, {"too_large": {"limit": 3}})
    for answer in (httpx.post(f"{server}/search", json={"limit": 4}), httpx.get(f"{server}/search?limit=4")):
        assert answer.status_code == 502
    assert len(httpx.post(f"{server}/search", json={"limit": 3}).json()["features"]) == 3


def test_signatures_are_wanted_and_run_out(server, asset):
    set_faults(server, {"signature": {"seconds": 1}})
    assert httpx.get(asset).status_code == 403
    assert httpx.get(f"{asset}?exp=99999999999999&sig=made-up").status_code == 403
    signed = httpx.get(f"{server}/sign", params={"href": asset}).json()["href"]
    assert httpx.get(signed).status_code == 200
    token = httpx.get(f"{server}/sign/token/optical").json()["token"]
    assert httpx.get(f"{asset}?{token}").status_code == 200
    other = httpx.get(f"{server}/sign/token/weather").json()["token"]
    assert httpx.get(f"{asset}?{other}").status_code == 403
    assert httpx.get(f"{server}/assets/{other}/weather/a.zarr/t/0").content == b"chunk"
    time.sleep(1.1)
    assert httpx.get(signed).status_code == 403


def test_expired_strikes_even_a_good_signature_and_the_next_attempt_draws_anew(server, asset):
    set_faults(server, {"expired": 0.5, "seed": 1})
    with httpx.Client() as client:
        statuses = [client.get(asset).status_code for _ in range(30)]
    assert set(statuses) == {200, 403}
    assert served(server)["struck"]["expired"] == statuses.count(403)


def test_the_same_seed_strikes_the_same_requests_in_any_order():
    paths = [f"/assets/{i}.tif" for i in range(200)]

    def run(order, seed=5):
        board = Switchboard(Faults.parse({"throttled": 0.3, "seed": seed}))
        return {(path, turn): bool(board.strikes("throttled", path, "GET")) for turn in range(2) for path in order}

    first = run(paths)
    assert run(paths[::-1]) == first
    assert run(paths, seed=6) != first
    assert 0.22 < sum(first.values()) / len(first) < 0.38
    # Whether the first attempt was struck says nothing of the second.
    assert any(first[path, 0] != first[path, 1] for path in paths)


def test_faults_by_path_do_not_change_with_attempts():
    board = Switchboard(Faults.parse({"missing": {"probability": 0.5}}))
    for i in range(20):
        path = f"/assets/{i}"
        answers = {bool(board.strikes("missing", path, f"GET bytes={n}-")) for n in range(5)}
        assert len(answers) == 1
        assert answers == {uniform(0, "missing", path, 0) < 0.5}


@pytest.mark.parametrize(
    "settings", [{"flood": 1}, {"latency": {"speed": 1}}, {"latency": 2}, {"missing": {"by": "day"}}]
)
def test_settings_that_mean_nothing_are_refused(settings, server):
    with pytest.raises(ValueError, match=r"sandbox\.faults"):
        Faults.parse(settings)
    with pytest.raises(ValueError, match=r"sandbox\.faults"):
        set_faults(server, settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latency": 7}, r"latency: 7 is no probability \(0 to 1\) .* latency=\{probability: 0\.5, seconds: 0\.04\}"),
        ({"missing": "often"}, "missing: 'often' is no probability"),
        ({"missing": {"by": "day"}}, r"missing\.by: 'day' is neither 'request' nor 'path'"),
        ({"flood": 1}, "no fault named 'flood'; choose from latency, .*, too_large$"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_which_setting(settings, words):
    with pytest.raises(ValueError, match=words):
        Faults.parse(settings)


def test_settings_survive_a_round_trip():
    faults = Faults.parse({"429": 0.1, "latency": {"seconds": 0.2}, "seed": 3})
    assert Faults.parse(faults.settings()) == faults
