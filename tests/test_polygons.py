"""Files of polygons: what is read, what is mended, what is refused and how."""

import geopandas as gpd
import pytest
from shapely import Point, Polygon, box

from pipelines.config_errors import ConfigError
from pipelines.polygons import read_area, read_polygons

BOW_TIE = Polygon([(4, 50), (5, 51), (5, 50), (4, 51), (4, 50)])


@pytest.fixture
def file_of(tmp_path):
    def _file_of(*shapes, crs="EPSG:4326", name="area.gpkg"):
        path = tmp_path / name
        gpd.GeoDataFrame(geometry=list(shapes), crs=crs).to_file(path)
        return str(path)

    return _file_of


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        read_area(path, "area.geojson")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"area.geojson: {path}")
    return text


def test_polygons_of_another_reference_system_come_in_degrees(file_of):
    square = box(500_000, 5_600_000, 510_000, 5_610_000)
    west, south, east, north = read_area(file_of(square, crs="EPSG:32631"), "area.geojson").bounds
    assert west == pytest.approx(3.0, abs=1e-3) and east == pytest.approx(3.14, abs=0.01)
    assert 50.5 < south < north < 50.7


def test_all_that_lies_near_a_wide_box_is_found_in_a_projection_that_bends_it(file_of):
    """Europe's equal-area projection: the northern edge of ten degrees is no line between its corners."""
    islands = [box(lon, lat, lon + 0.1, lat + 0.1) for lon in range(5, 15) for lat in (50.0, 50.9)]
    path = file_of(*gpd.GeoSeries(islands, crs=4326).to_crs(3035), crs="EPSG:3035")
    assert len(read_polygons(path, "plan.land", (5, 50, 15, 51))) == len(islands)


def test_a_file_without_a_reference_system_is_taken_to_be_in_degrees(file_of):
    path = file_of(box(4, 50, 5, 51), box(8, 50, 9, 51), crs=None, name="a.shp")
    assert len(read_polygons(path, "plan.land", (3, 49, 6, 52))) == 1


def test_a_polygon_that_crosses_itself_is_its_two_triangles(file_of):
    area = read_area(file_of(BOW_TIE), "area.geojson")
    assert area.is_valid and area.area == pytest.approx(0.5)


def test_points_beside_polygons_are_left_out(file_of):
    assert read_area(file_of(Point(9, 9), box(4, 50, 5, 51), name="a.geojson"), "k").equals(box(4, 50, 5, 51))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([Point(4, 50)], "has no polygon (it has Point); give a file of polygons"),
        ([Polygon()], "has no polygon"),
        ([box(170, 10, 190, 20)], "longitudes 170 to 190 are not within -180 to 180 degrees"),
        (
            [box(50, 100, 51, 101)],
            "latitudes 100 to 101 are not within -90 to 90 degrees",
        ),
        ([box(0, 85, 1, 86)], "have no UTM zone"),
        ([box(500_000, 5_600_000, 500_100, 5_600_100)], "longitudes 500000 to 500100"),
    ],
)
def test_what_cannot_be_mapped_is_refused_with_the_file(file_of, shapes, words):
    assert words in refusal(file_of(*shapes, name="area.geojson"))


def test_files_that_hold_no_features(tmp_path):
    path = tmp_path / "area.geojson"
    assert "cannot be read (no such file)" in refusal(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read (" in refusal(str(path))
    path.write_text('{"type": "FeatureCollection", "features": []}')
    assert "has no polygon (it has no feature)" in refusal(str(path))
    assert "cannot be read" in refusal(str(tmp_path))


def test_only_what_lies_near_is_read_and_nothing_there_is_an_error(file_of):
    path = file_of(box(4, 50, 5, 51), box(20, 50, 21, 51))
    assert len(read_polygons(path, "plan.land", (4.2, 50.2, 4.3, 50.3))) == 1
    with pytest.raises(ConfigError, match=r"plan\.land: .* has no polygon in the area \(8, 50, 9, 51\)"):
        read_polygons(path, "plan.land", (8, 50, 9, 51))
