"""What a tile is known by, and with which models it may be made."""

from dataclasses import replace

import numpy as np
import pytest
from shapely import box

from pipelines.config import Config, ConfigError
from pipelines.grid import Tile
from pipelines.scenes import Asset, Scene
from pipelines.sources.statistics import BandStatistics, Statistics
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.embed import Recipe, check_checkpoint
from pipelines.stages.modelling import model_config
from pipelines.stages.shard_set import STATISTICS
from pipelines.storage import Storage
from tests.stages.worlds import YEAR, config, sources_of

TILE = Tile.at(32631, 9000, 800, 64)
CONFIG = config(ingest={"text_encoder": None})
RECIPE = Recipe({name: found for name, found in sources_of(CONFIG).items() if found.is_input}, "tiny", "m0del", "c0de")
RED = Asset("https://x/red.tif", "red", scale=1e-4)
SCENE = Scene("sentinel2", "S2A_1", "here", "l2a", 5, (5, 6), box(3, 50, 4, 51), {"red": RED})


def key(scene):
    return RECIPE.provenance(CONFIG, {"sentinel2": [scene]}).identity(TILE, YEAR)


def test_a_tile_is_known_by_what_its_scenes_hold_and_not_by_where_they_are():
    assert key(SCENE) == key(replace(SCENE, item_href="https://x/items/S2A_1"))
    assert key(SCENE) == key(replace(SCENE, assets={"red": replace(RED, href="https://elsewhere/red.tif")}))
    corrected = replace(SCENE, assets={"red": replace(RED, offset=-0.1)})
    again = replace(SCENE, assets={"red": replace(RED, href="https://x/red_reprocessed.tif")})
    moved = replace(SCENE, assets={"red": replace(RED, transform=(10, 0, 10, 0, -10, 0))})
    others = [corrected, again, moved, replace(SCENE, time_ms=6), replace(SCENE, scene_id="S2A_2")]
    assert len({key(scene) for scene in (SCENE, *others)}) == 6


def test_a_receipt_names_the_item_of_every_scene_and_its_scaling():
    (named,) = RECIPE.provenance(CONFIG, {"sentinel2": [replace(SCENE, item_href="https://x/items/S2A_1")]}).inputs
    assert named.to_json() == {
        "scene_id": "S2A_1",
        "source": "sentinel2",
        "collection": "l2a",
        "href": "https://x/items/S2A_1",
        "scaling": "0.0001*x+0.0 (red)",
        "description": SCENE.description(),
    }


def statistics(mean=1.0):
    count = len(sources_of(CONFIG)["sentinel2"].bands)
    names = sources_of(CONFIG)["sentinel2"].band_names
    return Statistics({"sentinel2": BandStatistics(names, *(np.full(count, x) for x in (9, mean, 2.0)))}).to_json()


def checkpoint(**changes):
    bands = {name: list(found.band_names) for name, found in sources_of(CONFIG).items()}
    model = model_config(CONFIG).to_dict()
    fields = {"identity": "run", "step": 8, "steps": 8, "model": model, "bands": bands, "statistics": statistics()}
    return Checkpoint(**{**fields, "state": {}, **changes})


def with_sources(root, **changes):
    """The configuration with some sources replaced, or left out where None."""
    tree = CONFIG.model_dump()
    sources = {**tree["sources"], **changes}
    sources = {name: found for name, found in sources.items() if found is not None}
    return Config.model_validate({**tree, "root": str(root), "sources": sources})


def test_a_model_that_fits_configuration_and_statistics_may_map(tmp_path):
    settings = with_sources(tmp_path, gedi=None, era5=None)  # targets play no part in a map
    check_checkpoint(settings, checkpoint())
    Storage(tmp_path).write_bytes_atomic(STATISTICS, statistics().encode())
    check_checkpoint(settings, checkpoint())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sentinel2": {"catalog": "here", "collections": ["any"], "bands": ["nir", "red"]}},
            r"sources\.sentinel2\.bands: \['nir', 'red'\], but the model under .* has \['red', 'nir'\]; run `aef",
        ),
        (
            {"sentinel1": None},
            r"sources\.sentinel1: not configured as an input, but one of the model under .*; run `aef",
        ),
        (
            {"landsat": {"catalog": "here", "collections": ["any"]}},
            r"sources\.landsat: configured as an input, but none of the model under .*; run `aef train`, or restore",
        ),
    ],
)
def test_a_model_of_other_inputs_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        check_checkpoint(with_sources(tmp_path, **changes), checkpoint())


def test_a_model_of_other_statistics_is_refused(tmp_path):
    Storage(tmp_path).write_bytes_atomic(STATISTICS, statistics(mean=1.5).encode())
    with pytest.raises(ConfigError, match=r"statistics\.json: not the statistics .*; run `aef train`, or restore"):
        check_checkpoint(with_sources(tmp_path), checkpoint())
