import uuid

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from shapely import Point, box

from pipelines.evaluation import labels
from pipelines.evaluation.labels import LabelColumns, Task, TaskKind
from pipelines.storage import Storage

COVER = Task("cover", TaskKind.CLASSIFICATION, "land_cover", year=2021)


@pytest.fixture
def table(tmp_path):
    rows = [
        {
            "parcel_id": p,
            "year": y,
            "land_cover": "crop" if p % 2 else "tree",
            "height_m": float(p),
            "changed": p == 3,
            "geometry": Point(6 + p / 100, 46),
        }
        for p in range(10)
        for y in (2021, 2022)
    ]
    rows[4]["land_cover"] = None
    path = tmp_path / "labels.parquet"
    gpd.GeoDataFrame(rows, crs=4326).to_parquet(path)
    return path


def test_geoparquet_points_become_lon_lat_group_year(table):
    frame = labels.read_labels([table])
    assert frame.lon.iloc[2] == pytest.approx(6.01) and frame.lat.iloc[2] == pytest.approx(46)
    assert list(frame.group.iloc[:4]) == ["0", "0", "1", "1"] and list(frame.year.iloc[:2]) == [2021, 2022]


def test_points_of_another_crs_are_reprojected(tmp_path):
    path = tmp_path / "utm.parquet"
    gpd.GeoDataFrame({"parcel_id": [1], "year": [2021]}, geometry=[Point(500000, 5000000)], crs=32631).to_parquet(path)
    assert labels.read_labels([path]).lon.iloc[0] == pytest.approx(3.0)


def test_plain_parquet_with_dates_and_a_group_of_two_columns(tmp_path):
    path = tmp_path / "plain.parquet"
    frame = pd.DataFrame(
        {
            "x": [3.0, 4.5],
            "y": [50.0, 50.0],
            "patch": ["a", "b"],
            "seg": [1, 1],
            "from": pd.to_datetime(["2019-01-01", "2021-06-01"]),
        }
    )
    frame.to_parquet(path)
    columns = LabelColumns(lon="x", lat="y", group=("patch", "seg"), year="from")
    got = labels.read_labels([path], columns)
    assert list(got.group) == ["a/1", "b/1"] and list(got.year) == [2019, 2021]
    with pytest.raises(ValueError, match=r"spans 1.5 degrees.*group columns"):
        labels.read_labels([path], LabelColumns(lon="x", lat="y", group="seg", year=None))


def test_a_missing_column_or_file_is_named(table, tmp_path):
    with pytest.raises(ValueError, match=r"no column 'field'.*parcel_id"):
        labels.read_labels([table], LabelColumns(group="field"))
    with pytest.raises(ValueError, match=r"no file .*absent"):
        labels.read_labels([tmp_path / "absent.parquet"])
    with pytest.raises(ValueError, match="no column 'soil'"):
        labels.labelled(labels.read_labels([table]), Task("soil", TaskKind.CLASSIFICATION, "soil"))


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_labels_are_found_and_read_by_uri(table, tmp_path, scheme):
    folder = f"memory://{uuid.uuid4().hex}" if scheme == "memory" else f"file://{tmp_path}/there"
    for name in ("b", "a"):
        Storage(folder).write_bytes_atomic(f"{name}.parquet", table.read_bytes())
    Storage(folder).write_bytes_atomic("notes.txt", b"")
    found = labels.matching_files(f"{folder}/*.parquet")
    assert [path.rsplit("/", 1)[1] for path in found] == ["a.parquet", "b.parquet"]
    assert all(path.startswith(f"{scheme}://") for path in found)
    assert labels.file_bytes(found[0]) == table.read_bytes()
    assert labels.read_labels(found[:1]).equals(labels.read_labels([table]))
    with pytest.raises(ValueError, match=r"evaluate\.labels: no file .*none\.parquet"):
        labels.read_labels([f"{folder}/none.parquet"])
    assert labels.matching_files(f"{folder}/none*") == [] and labels.file_bytes(f"{folder}/none*") is None


def test_labelled_takes_the_year_and_drops_what_has_no_label(table):
    part = labels.labelled(labels.read_labels([table]), COVER)
    assert set(part.year) == {2021} and "2" not in set(part.group) and len(part) == 9


def test_one_point_a_parcel_and_year():
    frame = pd.DataFrame({"group": list("aaabbc"), "year": 2021, "n": range(6)})
    chosen = labels.one_per_group(frame, seed=1)
    assert list(chosen.group) == ["a", "b", "c"]
    picks = {tuple(labels.one_per_group(frame, seed=s).n) for s in range(30)}
    assert len(picks) > 3  # at random, not the first


def test_pairs_join_the_two_years_of_a_parcel(table):
    frame = labels.read_labels([table])
    pairs = labels.pair_years(frame, Task("change", TaskKind.CHANGE, "changed", 2021, 2022))
    assert len(pairs) == 10 and list(pairs.label[pairs.group == "3"]) == ["changed"]
    assert (pairs.label == "changed").sum() == 1
    assert (frame.group.to_numpy()[pairs.before] == frame.group.to_numpy()[pairs.after]).all()
    assert (frame.year.to_numpy()[pairs.after] == 2022).all()
    with pytest.raises(ValueError, match="both 2021 and 2030"):
        labels.pair_years(frame, Task("change", TaskKind.CHANGE, "changed", 2021, 2030))


def test_a_parcel_across_the_region_border_is_never_trained_on():
    frame = pd.DataFrame({"lon": [0.0, 0.9, 1.1, 2.0], "lat": 0.0, "group": ["a", "b", "b", "c"]})
    train, test = labels.split_by_region(frame, box(1, -1, 3, 1))
    assert train.tolist() == [True, False, False, False] and test.tolist() == [False, False, True, True]


@pytest.mark.parametrize("seed", range(5))
def test_group_splits_share_no_parcel_and_give_each_class_its_part(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 400).astype(str)
    kinds = np.array(["rare" if int(g) < 4 else "common" for g in groups])
    train, test = labels.split_by_groups(groups, 0.4, seed, kinds)
    assert not set(groups[train]) & set(groups[test]) and (train ^ test).all()
    assert len(set(groups[test])) == 16 and set(kinds[test]) == set(kinds[train]) == {"rare", "common"}
    folds = labels.group_folds(groups, 4, seed, kinds)
    assert all(len(set(folds[groups == g])) == 1 for g in set(groups))
    assert all(set(kinds[folds == f]) == {"rare", "common"} for f in range(4))


def test_group_splits_do_not_depend_on_the_order_of_the_points():
    groups = np.array(list("abcdefgh"))
    _, test = labels.split_by_groups(groups, 0.4, 0)
    _, again = labels.split_by_groups(groups[::-1], 0.4, 0)
    assert np.array_equal(test, again[::-1])


def test_split_column_puts_a_parcel_of_both_into_test_only():
    frame = pd.DataFrame({"split": ["train", "train", "test"], "group": ["a", "b", "b"]})
    train, test = labels.split_by_column(frame)
    assert train.tolist() == [True, False, False] and test.tolist() == [False, False, True]
    with pytest.raises(ValueError, match="unknown split"):
        labels.split_by_column(pd.DataFrame({"split": ["validation"], "group": ["a"]}))
