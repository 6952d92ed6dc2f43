"""What a dry run says: bytes that can be checked by hand, FLOP that are those of the model, and nothing written."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shapely import box
from torch.utils.flop_counter import FlopCounterMode

from aef_model import AlphaEarth
from pipelines.cli import main
from pipelines.grid import Tile, Window
from pipelines.sandbox.process import running_server
from pipelines.scenes import Asset, Scene
from pipelines.stages import estimate, flop
from pipelines.stages.estimate import Estimate
from pipelines.stages.modelling import model_config
from pipelines.stages.survey import Distinct, File, Look, Survey, Tally, looks_from_dict, looks_to_dict
from tests.catalogs import static_world
from tests.stages.running import free_port
from tests.stages.worlds import YEAR, config

WINDOW = Window(32631, 500_000, 5_600_000, 100, 200)


def scene(name, footprint, day, **assets):
    time_ms = YEAR.start_ms + day * 86_400_000
    facts = {"platform": "a", "relative_orbit": 1}
    return Scene(name, f"{day}", "here", "any", time_ms, (time_ms, time_ms + 1), footprint, assets, facts)


def test_bytes_are_those_of_the_window_at_each_files_own_pixel_size_in_whole_blocks():
    look = Look(10.0, (File(10.0, 2, 0, 0), File(20.0, 1, 0, 0)))
    assert look.bytes_of(WINDOW, 0) == 10 * (2 * 100 * 200 + 1 * 50 * 100)
    assert look.bytes_of(WINDOW, 512) == 10 * (2 * 612 * 712 + 1 * 562 * 612)
    assert Look(1.0, (File(10.0, 2, 150, 120),)).bytes_of(WINDOW, 512) == 2 * 150 * 120  # no more than the file has


def test_frames_are_counted_by_what_they_cover_and_pieces_of_one_acquisition_once():
    area, west, east = box(4, 50, 6, 51), box(4, 50, 5, 51), box(5, 50, 6, 51)
    asset = Asset("/a.tif", "red", "uint16", transform=(20, 0, 0, 0, -20, 0), epsg=32631, shape=(5490, 5490))
    tally = Tally(config(), area)
    pieces = [scene("sentinel2", west.buffer(0.1), 1, red=asset), scene("sentinel2", east.buffer(0.1), 1, red=asset)]
    tally.add([*pieces, scene("sentinel2", west, 6, red=asset)], area)
    tally.add([scene("era5", area, 1, store=Asset("/s.zarr", "store"))], area)
    looks = tally.looks()
    assert set(looks) == {"sentinel2"}
    assert looks["sentinel2"].frames == pytest.approx(1.5)
    assert looks["sentinel2"].files == (File(20.0, 2, 5490, 5490),)
    assert looks_from_dict(json.loads(json.dumps(looks_to_dict(looks)))) == looks


def test_the_largest_files_stand_for_all_of_a_source():
    area = box(4, 50, 6, 51)
    small, large = (Asset("/a.tif", "red", "uint16", transform=(10, 0, 0, 0, -10, 0), shape=(n, n)) for n in (6, 64))
    tally = Tally(config(), area)
    for day, asset in enumerate((small, large, small)):
        tally.add([scene("sentinel2", area, day, red=asset)], area)
    assert tally.looks()["sentinel2"] == Look(3.0, (File(10.0, 2, 64, 64),))


def test_files_in_degrees_and_files_of_which_nothing_is_said():
    area = box(4, 59, 6, 61)
    arc_second = 1 / 3600
    grid = Asset("/m.tif", "map", "uint8", transform=(arc_second, 0, 4, 0, -arc_second, 60), epsg=4326)
    tally = Tally(config(), area)
    tally.add(
        [scene("landcover", area, 1, land_cover=grid), scene("sentinel1", area, 1, vv=Asset("/v.tif", "vv"))], area
    )
    looks = tally.looks()
    assert looks["landcover"].files[0].pixel_m == pytest.approx(30.92 * 0.5**0.5, rel=1e-3)
    assert looks["sentinel1"].files == (File(10.0, 4, 0, 0),)


FRAMES = {"sentinel2": 3, "sentinel1": 2}


def test_the_flop_of_an_embedding_are_those_that_the_model_does():
    configured = config()
    # plain attention: torch counts nothing for the fused kernel of a CPU
    model = AlphaEarth(replace(model_config(configured), attention="matmul")).eval()
    frames = flop._frames(model, FRAMES, 32)
    with FlopCounterMode(display=False) as counter:
        model.embed(frames, torch.tensor([[YEAR.start_ms, YEAR.end_ms]]))
    assert flop.embedding_flop(configured, FRAMES, 32) == counter.get_total_flops() > 0


def test_a_training_step_is_three_forwards_and_the_student_comes_now_and_then():
    always = config(train={"overrides": {"consistency_every": 1}})
    seldom = config(train={"overrides": {"consistency_every": 4}})
    never = config(train={"overrides": {"consistency_weight": 0.0}})
    forward = flop.embedding_flop(always, FRAMES, 16)
    alone, with_student = flop.training_flop(never, FRAMES, 16), flop.training_flop(always, FRAMES, 16)
    assert 2.8 * forward < with_student - alone < 3.0 * forward  # no gradient of the pixels themselves
    assert flop.training_flop(seldom, FRAMES, 16) == pytest.approx(alone + (with_student - alone) / 4)
    assert alone > with_student - alone  # more periods, and decoders


def test_what_is_done_is_not_estimated_again():
    needs = estimate.Estimate(fetched=8.0, flop=4.0, cpu_hours=2.0)
    assert needs.left(1, 4) == estimate.Estimate(fetched=6.0, flop=3.0, cpu_hours=1.5)
    assert needs.left(4, 4).text(config()) == needs.left(5, 4).text(config()) == "nothing left to do"


def test_hours_and_price_are_the_work_over_the_rate():
    cost = {"gpu_tflops": 1, "gpu_hour": 3, "cpu_seconds_per_gb": 36, "cpu_hour": 5, "compression": 2, "block_px": 0}
    configured = config(cost=cost, embed={"gpus": 1, "patch_px": 64, "margin_px": 16}, plan={"tile_px": 64})
    tiles = [Tile.at(32631, 100, index, 64) for index in range(3)]
    survey = Survey([], tiles, {"sentinel2": Look(10.0, (File(10.0, 2, 0, 0),)), "landcover": Look(1, ())})
    windows = [tile.window.pad(16) for tile in tiles]
    needs = estimate.embed(configured, survey, flop.tile_flop, windows)
    assert needs.fetched == 3 * 10 * 2 * 96**2 / 2
    assert needs.written == 3 * 64 * 64 * 64
    # Cores of 32 px: four patches of 64 a tile.
    assert needs.flop == 3 * 4 * flop.embedding_flop(configured, {"sentinel2": 10}, 64)
    assert needs.gpu_hours == pytest.approx(needs.flop / 1e12 / 3600)
    assert needs.cpu_hours == pytest.approx(needs.fetched / 1e9 * 36 / 3600)
    assert Estimate(gpu_hours=2, cpu_hours=1).text(configured) == "2 GPU-hours, 1 CPU-hours, cost 11"
    assert Estimate(gpu_hours=1234).text(configured) == "1234 GPU-hours, 0 CPU-hours, cost 3702"


CONFIG = Path(__file__).parent.parent.parent / "configs" / "sandbox.yaml"


def test_a_dry_run_before_the_synthetic_earth_is_built_says_what_is_known_without_it(tmp_path, capsys):
    root = tmp_path / "root"
    url = f"catalogs.sandbox.url=http://127.0.0.1:{free_port()}"
    assert main(["run", "--config", str(CONFIG), "--set", f"root={root}", "--set", url, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "would build the small synthetic Earth" in out and "10 x 10 km around 49.6 N" in out and "2021, 2022" in out
    assert "[plan] would search sentinel2 (sentinel-2-l2a)" in out
    assert re.search(r"\[plan\] \d+ sites \{'train': \d+, 'test': \d+\}, \d+ sequences", out)
    assert "tiles of 304 px" in out
    assert "[evaluate] land_cover (classification)" in out
    remedy = f"`aef sandbox build --size small --seed 7 --path {root}/sandbox` and this again"
    assert out.splitlines()[-1] == f"[all] scenes, bytes, hours and cost need the synthetic Earth: run {remedy}"
    assert not root.exists()


@pytest.fixture
def region(tmp_path):
    """A configuration over a static catalog, and its words for the command line."""
    catalog = static_world.write(tmp_path / "catalog")
    path = tmp_path / "region.yaml"
    tree = {
        "root": str(tmp_path / "root"),
        "area": {"bbox": [10.0, 50.0, 10.05, 50.03]},
        "periods": [["2020-01-01", "2021-01-01"]],
        "catalogs": {"here": {"kind": "static", "url": str(catalog)}},
        "sources": {"sentinel2": {"catalog": "here", "collections": ["optical"]}},
        "plan": {"tile_px": 64, "site_px": 32},
        "embed": {"patch_px": 64},
        "ingest": {"text_encoder": None},
    }
    path.write_text(json.dumps(tree))
    return path, tmp_path / "root"


def test_a_dry_run_on_a_new_root_gives_the_figures_of_all_stages_and_writes_nothing(region, capsys):
    path, root = region
    assert main(["run", "--config", str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line.split("]")[0][1:]: line for line in lines if line.startswith("[")}
    assert {"plan", "ingest", "train", "embed", "all"} <= set(told)
    assert all("cost" in told[name] and "GPU-hours" in told[name] for name in ("ingest", "train", "embed", "all"))
    assert all("fetches" in told[name] for name in ("ingest", "embed", "all"))
    assert "FLOP" in told["train"] and "FLOP" in told["embed"] and lines[-1].startswith("Assumed (cost in the")
    assert not root.exists()

    assert main(["plan", "--config", str(path)]) == 0
    capsys.readouterr()
    assert main(["embed", "--config", str(path), "--dry-run"]) == 0
    assert told["embed"] in capsys.readouterr().out.splitlines()  # the plan on storage says the same


def test_a_stage_alone_without_a_plan_says_what_it_needs(region, capsys):
    path, root = region
    assert main(["ingest", "--config", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out == f"[ingest] needs the plan; `aef plan` has not run under {root}\n"


def test_a_scene_that_several_search_cells_find_counts_once(region, capsys):
    path, root = region
    assert main(["plan", "--config", str(path), "--set", "plan.search_cell_deg=0.02"]) == 0
    cells = json.loads((root / "plan/plan.json").read_text())["cells"]
    assert len(cells) == 12  # 6 of the area, and around it what sites and tiles reach
    assert "[plan] scenes: sentinel2 1\n" in capsys.readouterr().out
    row = json.loads((root / "reports/summary.json").read_text())["stages"]["plan"]
    assert (row["planned"], row["written"], row["skipped"]) == (2, 1, 1)
    assert row["reasons"] == {"sentinel2: the item has no geometry": 1}


def test_distinct_items_are_counted_over_rows_of_cells():
    distinct = Distinct()
    for row, ids in ((1, "ab"), (1, "bc"), (2, "ac"), (2, "ad"), (3, "ad")):
        distinct.add((("era5", name) for name in ids), row)
    distinct.add([("gedi", "a")], 3)
    assert distinct.counts == {"era5": 4, "gedi": 1}


def test_a_dry_run_asks_a_server_that_answers_already(region, capsys):
    path, root = region
    with running_server(root.parent / "catalog" / "stac") as url:
        words = ["sandbox={size: tiny}", f"catalogs.here={{kind: sandbox, url: '{url}'}}"]
        assert main(["run", "--config", str(path), "--dry-run", *(f"--set={word}" for word in words)]) == 0
    out = capsys.readouterr().out
    assert f"[plan] searches the catalog that answers at {url}\n" in out and "[plan] scenes: sentinel2 1\n" in out
    assert "[all] fetches" in out and not root.exists()
