"""Scenes: what comes back from the table, and what is said of how their numbers become physical."""

from dataclasses import replace

import pytest
from shapely import box

from pipelines.scenes import Asset, Scene, frame_to_scenes, scenes_to_frame

BLUE = Asset("https://x/blue.tif", "B02", "uint16", 0.0, 1e-4, -0.1, 32631, (10, 0, 0, 0, -10, 0), (2, 3))
SCENE = Scene(
    "sentinel2",
    "S2A_1",
    "here",
    "l2a",
    5,
    (5, 6),
    box(3, 50, 4, 51),
    {"scl": Asset("https://x/scl.tif", "SCL"), "red": replace(BLUE, href="https://x/red.tif"), "blue": BLUE},
    {"platform": "sentinel-2a"},
    "https://x/items/S2A_1",
)


def test_a_scene_comes_back_from_the_table_with_the_address_of_its_item():
    unknown = replace(SCENE, scene_id="S2A_2", item_href="")
    assert frame_to_scenes(scenes_to_frame([unknown, SCENE])) == [SCENE, unknown]


def test_the_scaling_of_a_scene_is_short_exact_and_blind_to_everything_else():
    assert SCENE.scaling() == "0.0001*x-0.1 (blue red); 1.0*x+0.0 (scl)"
    turned = dict(reversed(SCENE.assets.items()))
    assert replace(SCENE, item_href="", scene_id="other", assets=turned).scaling() == SCENE.scaling()
    for changed in (replace(BLUE, offset=-0.1 + 2e-17), replace(BLUE, scale=1e-4 + 1e-19)):
        assert replace(SCENE, assets={**SCENE.assets, "blue": changed}).scaling() != SCENE.scaling()


@pytest.mark.parametrize(
    "changed",
    [
        {"time_ms": 6},
        {"valid_ms": (5, 7)},
        {"footprint": box(3, 50, 4, 52)},
        {"facts": {"platform": "sentinel-2b"}},
        *(
            {"assets": {**SCENE.assets, "blue": replace(BLUE, **field)}}
            for field in (
                {"href": "https://x/blue_new.tif"},
                {"href": BLUE.href.replace("https://x/", "https://x/version/2/")},
                {"nodata": None},
                {"dtype": "int16"},
                {"offset": 0.0},
                {"epsg": 32632},
                {"transform": (10, 0, 10, 0, -10, 0)},
                {"shape": (2, 4)},
            )
        ),
    ],
)
def test_whatever_its_pixels_depend_on_is_in_the_description_of_a_scene(changed):
    assert replace(SCENE, **changed).description() != SCENE.description()


def test_a_scene_on_another_host_is_described_alike():
    moved = {
        band: replace(asset, href=asset.href.replace("https://x", "http://mirror:81") + "?sig=1")
        for band, asset in SCENE.assets.items()
    }
    assert replace(SCENE, assets=moved).description() == SCENE.description()
    (again,) = frame_to_scenes(scenes_to_frame([SCENE]))
    assert again.description() == SCENE.description()
