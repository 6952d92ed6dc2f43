"""What a tile is known by."""

from dataclasses import replace

from shapely import box

from pipelines.grid import Tile
from pipelines.scenes import Asset, Scene
from pipelines.stages.embed import Recipe
from tests.stages.worlds import YEAR, config, sources_of

TILE = Tile.at(32631, 9000, 800, 64)
CONFIG = config(ingest={"text_encoder": None})
RECIPE = Recipe({name: found for name, found in sources_of(CONFIG).items() if found.is_input}, "tiny", "m0del", "c0de")
RED = Asset("https://x/red.tif", "red", scale=1e-4)
SCENE = Scene("sentinel2", "S2A_1", "here", "l2a", 5, (5, 6), box(3, 50, 4, 51), {"red": RED})


def key(scene):
    return RECIPE.provenance(CONFIG, {"sentinel2": [scene]}).identity(TILE, YEAR)


def test_a_tile_is_known_by_its_scenes_and_their_scaling_and_not_by_where_they_are():
    assert key(SCENE) == key(replace(SCENE, item_href="https://x/items/S2A_1"))
    assert key(SCENE) == key(replace(SCENE, assets={"red": replace(RED, href="https://elsewhere/red.tif")}))
    corrected = replace(SCENE, assets={"red": replace(RED, offset=-0.1)})
    assert len({key(SCENE), key(corrected), key(replace(SCENE, scene_id="S2A_2"))}) == 3


def test_a_receipt_names_the_item_of_every_scene_and_its_scaling():
    (named,) = RECIPE.provenance(CONFIG, {"sentinel2": [replace(SCENE, item_href="https://x/items/S2A_1")]}).inputs
    assert named.to_json() == {
        "scene_id": "S2A_1",
        "source": "sentinel2",
        "collection": "l2a",
        "href": "https://x/items/S2A_1",
        "scaling": "0.0001*x+0.0 (red)",
    }
