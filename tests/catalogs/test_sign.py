"""Access tokens: one per container, kept, renewed in time; credentials from the environment only."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time

import httpx
import pytest

from pipelines.catalogs import SigningError, open_catalog
from pipelines.catalogs import sign as signing
from pipelines.catalogs.sign import Buckets, Earthdata, PlanetaryComputerSigner, SandboxSigner
from pipelines.grid import format_time
from pipelines.patience import wait_s
from pipelines.sandbox.process import running_server, served, set_faults
from tests.catalogs import static_world

BLOB = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/06/B04.tif"


class Provider:
    """Gives tokens and counts who asked for what."""

    def __init__(self, life_s=3600.0, failures=()):
        self.life_s, self.failures, self.asked = life_s, list(failures), []

    def __call__(self, url):
        self.asked.append(url)
        if self.failures:
            return self.failures.pop(0)
        expiry = format_time(round((time.time() + self.life_s) * 1000))
        return 200, {}, json.dumps({"token": f"st=1&sig=t{len(self.asked)}", "msft:expiry": expiry})


def test_planetary_computer_signs_azure_blobs_with_one_token_a_container():
    provider = Provider()
    sign = PlanetaryComputerSigner(provider)
    assert sign(BLOB) == f"{BLOB}?st=1&sig=t1"
    assert sign(BLOB.replace("B04", "B08")).endswith("B08.tif?st=1&sig=t1")
    sign("https://sentinel2l2a01.blob.core.windows.net/other/x.tif")
    assert provider.asked == [
        "https://planetarycomputer.microsoft.com/api/sas/v1/token/sentinel2l2a01/sentinel2-l2",
        "https://planetarycomputer.microsoft.com/api/sas/v1/token/sentinel2l2a01/other",
    ]
    for other in ("https://example.com/a.tif", "/local.tif", f"{BLOB}?sig=already"):
        assert sign(other) == other


def test_a_token_is_renewed_before_it_ends_and_after_a_refusal():
    provider = Provider(life_s=0.3)
    sign = PlanetaryComputerSigner(provider)
    assert sign(BLOB).endswith("t1") and sign(BLOB).endswith("t1")
    time.sleep(0.28)
    assert sign(BLOB).endswith("t2")
    sign.invalidate(BLOB)
    assert sign(BLOB).endswith("t3")


def test_many_threads_ask_for_one_token():
    provider = Provider()
    sign = PlanetaryComputerSigner(provider)
    threads = [threading.Thread(target=sign, args=(BLOB,)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(provider.asked) == 1


def test_a_signer_travels_without_its_tokens():
    sign = PlanetaryComputerSigner()
    sign._tokens["x"] = ("secret-token", 9e9, 0.0)
    data = pickle.dumps(sign)
    assert b"secret-token" not in data
    assert pickle.loads(data)._tokens == {}


def test_a_throttled_token_service_is_asked_again_and_a_refusing_one_is_not():
    busy = Provider(
        failures=[(429, {}, "Rate limit is exceeded. Try again in 0.05 seconds."), (503, {"retry-after": "0"}, "")]
    )
    assert PlanetaryComputerSigner(busy)(BLOB).endswith("t3")
    refusing = Provider(failures=[(404, {}, "no such container")] * 2)
    with pytest.raises(SigningError, match="404: no such container"):
        PlanetaryComputerSigner(refusing)(BLOB)
    assert len(refusing.asked) == 1
    with pytest.raises(SigningError, match="no token"):
        PlanetaryComputerSigner(Provider(failures=[(200, {}, "<html>")]))(BLOB)


@pytest.mark.parametrize(
    ("headers", "body", "attempt", "expected"),
    [
        ({"Retry-After": "7"}, "", 0, 7.0),
        ({"retry-after": "0"}, "", 3, 0.0),
        ({"Retry-After": "100000"}, "", 0, 120.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "", 0, 0.0),
        ({"Retry-After": "soon"}, "", 1, 1.0),
        ({"Retry-After": "NaN"}, "", 1, 1.0),
        ({}, "please try again in 12 seconds", 0, 12.0),
        ({}, "", 0, 0.5),
        ({}, "", 3, 4.0),
    ],
)
def test_how_long_to_wait(headers, body, attempt, expected):
    assert wait_s(attempt, headers, body) == expected


def test_the_sandbox_signs_files_and_stores_and_renews_what_has_run_out(tmp_path):
    with running_server(static_world.write(tmp_path), {"signature": {"seconds": 1.0}}) as url:
        sign = open_catalog("cat", "sandbox", url, signed=True).signer
        assert isinstance(sign, SandboxSigner)
        file, chunk = f"{url}/assets/optical/scene-0/B02.tif", f"{url}/assets/weather/a.zarr"
        assert httpx.get(file).status_code == 403
        assert httpx.get(sign(file)).status_code == 200
        assert httpx.get(f"{sign(chunk)}/t/0").content == b"chunk"
        assert served(url)["requests"]["sign"] == 2  # one a container
        first = sign(file)
        time.sleep(1.05)
        assert httpx.get(first).status_code == 403
        assert httpx.get(sign(file)).status_code == 200
        set_faults(url, {})
        assert open_catalog("cat", "sandbox", url).signer(file) == file


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    """No credentials of AWS anywhere: neither in the environment, nor at home, nor from the machine."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(signing, "_MACHINE_VENDOR", tmp_path / "sys_vendor")
    return tmp_path


PAYS = "s3://usgs-landsat/x.tif"


def test_buckets_that_cost_need_an_account_from_the_environment(monkeypatch, no_account):
    sign = open_catalog("cat", "earth_search").signer
    assert isinstance(sign, Buckets)
    assert sign.gdal_options("https://sentinel-cogs.s3.us-west-2.amazonaws.com/x.tif") == {}
    assert sign.gdal_options("s3://sentinel-cogs/x.tif") == {"AWS_NO_SIGN_REQUEST": "YES"}
    with pytest.raises(SigningError, match="usgs-landsat needs an account: set AWS_ACCESS_KEY_ID"):
        sign.gdal_options(PAYS)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    assert sign.gdal_options(PAYS) == {"AWS_REQUEST_PAYER": "requester"}
    cdse = open_catalog("cat", "cdse").signer.gdal_options("s3://eodata/x.jp2")
    assert cdse == {"AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu", "AWS_VIRTUAL_HOSTING": "FALSE"}


@pytest.mark.parametrize(
    "name",
    [
        "AWS_PROFILE",
        "AWS_ROLE_ARN",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    ],
)
def test_every_variable_by_which_aws_hands_out_credentials_is_an_account(name, monkeypatch, no_account):
    monkeypatch.setenv(name, "x")
    assert Buckets().gdal_options(PAYS) == {"AWS_REQUEST_PAYER": "requester"}


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_credentials_file_is_an_account(elsewhere, monkeypatch, no_account):
    path = no_account / ("mine" if elsewhere else ".aws/credentials")
    if elsewhere:
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    with pytest.raises(SigningError):
        Buckets().gdal_options(PAYS)
    path.parent.mkdir(exist_ok=True)
    path.write_text("[default]\n")
    assert Buckets().gdal_options(PAYS) == {"AWS_REQUEST_PAYER": "requester"}


def test_the_role_of_a_machine_of_ec2_is_an_account_at_aws_only(no_account):
    vendor = no_account / "sys_vendor"
    vendor.write_text("QEMU\n")
    with pytest.raises(SigningError):
        Buckets().gdal_options(PAYS)
    vendor.write_text("Amazon EC2\n")
    assert Buckets().gdal_options(PAYS) == {"AWS_REQUEST_PAYER": "requester"}
    with pytest.raises(SigningError, match="eodata needs an account"):
        Buckets("eodata.dataspace.copernicus.eu").gdal_options("s3://eodata/x.jp2")


def test_earthdata_takes_a_token_or_the_netrc(monkeypatch):
    sign = open_catalog("cat", "cmr").signer
    assert isinstance(sign, Earthdata)
    monkeypatch.delenv("EARTHDATA_TOKEN", raising=False)
    assert sign.gdal_options("https://x")["GDAL_HTTP_NETRC"] == "YES"
    monkeypatch.setenv("EARTHDATA_TOKEN", "abc")
    assert sign.gdal_options("https://x")["GDAL_HTTP_BEARER"] == "abc"
    assert b"abc" not in pickle.dumps(sign)


GRANULE = "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/g.h5"
LOGIN = "https://urs.earthdata.nasa.gov/oauth/authorize?client_id=x"
STORAGE = "https://d1nklfio7vscoe.cloudfront.net/g.h5?signature=x"


def test_the_earthdata_token_is_for_nasas_hosts_only(monkeypatch):
    monkeypatch.setenv("EARTHDATA_TOKEN", "abc")
    sign = Earthdata()
    assert sign.authorization(GRANULE) == sign.authorization(LOGIN) == "Bearer abc"
    for other in (STORAGE, "https://earthdata.nasa.gov.evil.org/g.h5", "https://notearthdata.nasa.gov/g.h5", "/g.h5"):
        assert sign.authorization(other) is None


def test_name_and_password_are_for_the_login_host_only(monkeypatch, tmp_path):
    monkeypatch.delenv("EARTHDATA_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    sign = Earthdata()
    assert sign.authorization(LOGIN) is None
    path = tmp_path / ".netrc"
    path.write_text("machine urs.earthdata.nasa.gov login me password secret\n")
    path.chmod(0o600)
    assert sign.authorization(LOGIN) == "Basic bWU6c2VjcmV0"
    assert sign.authorization(GRANULE) is None and sign.authorization(STORAGE) is None
    path.write_text("machine urs.earthdata.nasa.gov login me passwort secret\n")
    with pytest.raises(SigningError, match=r"\.netrc, line 1: not a valid netrc file") as caught:
        sign.authorization(LOGIN)
    assert "secret" not in str(caught.value)
