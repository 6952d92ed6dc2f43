"""Labelled points and how they are held out: tables of points in, masks and pairs out.

A point belongs to a group (a parcel, a field, a connected piece of one class). Points of one group are near copies of
each other, so a group never stands on both sides of a split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from glob import glob
from io import BytesIO
from pathlib import Path

import fsspec
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

MAX_GROUP_DEG = 0.5  # about 50 km: a wider "parcel" is two parcels of different files that share a number


class TaskKind(StrEnum):
    """What is predicted."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    CHANGE = "change"


@dataclass(frozen=True)
class Task:
    """One downstream task.

    Attributes:
        name: in the score table.
        kind: classification, regression or change.
        column: of the label table.
        year: restricts the points to those of one year; None: all. For a change task: the year before.
        year_after: for a change task: the year after.
    """

    name: str
    kind: TaskKind
    column: str
    year: int | None = None
    year_after: int | None = None


@dataclass(frozen=True)
class LabelColumns:
    """Names of the columns of a label table.

    Attributes:
        lon, lat: used where the table has no geometry.
        group: one or more columns that together name the parcel.
        year: year of validity, an integer or a date; None: labels hold for every period.
        split: optional column that says ``train`` or ``test``.
    """

    lon: str = "lon"
    lat: str = "lat"
    group: str | tuple[str, ...] = "parcel_id"
    year: str | None = "year"
    split: str | None = None


def matching_files(pattern: str) -> list[str]:
    """The files of this machine, or of the store of a URI, that a shell pattern fits; sorted."""
    if "://" not in pattern:
        return sorted(glob(pattern))
    fs, path = fsspec.core.url_to_fs(pattern)
    return sorted(fs.unstrip_protocol(found) for found in fs.glob(path))


def file_bytes(path: str | Path) -> bytes | None:
    """The content of a local file or of a URI's object; None where there is none."""
    try:
        with fsspec.open(str(path), "rb") as file:
            content: bytes = file.read()
    except (FileNotFoundError, IsADirectoryError):
        return None
    return content


def read_labels(paths: Iterable[str | Path], columns: LabelColumns = LabelColumns()) -> pd.DataFrame:
    """Label tables (GeoParquet or Parquet; paths or URIs) as one frame.

    Adds or replaces the columns ``lon``, ``lat`` (WGS 84 degrees), ``group`` (str), ``year`` (int, -1 for any),
    ``split`` (str or None); keeps all others.

    Raises:
        ValueError: for a missing file or column, a point without position, a group that spans the country.
    """
    files = list(paths)
    if not files:
        raise ValueError("evaluate.labels: no file matches; give at least one label table")
    table = pd.concat([_read_one(path, columns) for path in files], ignore_index=True)
    spans = table.groupby("group")[["lon", "lat"]].agg(lambda column: column.max() - column.min()).max(axis=1)
    if len(spans) and spans.max() > MAX_GROUP_DEG:
        raise ValueError(
            f"group {spans.idxmax()!r} spans {spans.max():.1f} degrees: its number is used in several places; "
            f"add a column that tells them apart to the group columns (now: {columns.group})"
        )
    return table


def _read_one(path: str | Path, columns: LabelColumns) -> pd.DataFrame:
    content = file_bytes(path)
    if content is None:
        raise ValueError(f"evaluate.labels: no file {path}")
    is_geo = b"geo" in (pq.read_schema(BytesIO(content)).metadata or {})
    table = gpd.read_parquet(BytesIO(content)).to_crs(4326) if is_geo else pd.read_parquet(BytesIO(content))
    groups = (columns.group,) if isinstance(columns.group, str) else tuple(columns.group)
    wanted = [*groups, *([columns.year] if columns.year else []), *([columns.split] if columns.split else [])]
    if not is_geo:
        wanted += [columns.lon, columns.lat]
    for name in wanted:
        if name not in table.columns:
            raise ValueError(f"{path}: no column {name!r}; it has {', '.join(table.columns)}")
    if is_geo:
        points = table.geometry.representative_point()
        lon, lat = points.x.to_numpy(), points.y.to_numpy()
    else:
        lon, lat = table[columns.lon].to_numpy(float), table[columns.lat].to_numpy(float)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise ValueError(f"{path}: {int((~np.isfinite(lon + lat)).sum())} points have no position; remove them")
    frame = pd.DataFrame(table.drop(columns=table.geometry.name) if is_geo else table).copy()
    group = frame[list(groups)].astype(str).agg("/".join, axis=1) if len(groups) > 1 else frame[groups[0]].astype(str)
    year = _years(frame[columns.year]) if columns.year else -1
    split = frame[columns.split].astype(str) if columns.split else None
    return frame.assign(lon=lon, lat=lat, group=group, year=year, split=split)


def _years(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(np.int64)
    return pd.to_datetime(column, utc=True).dt.year.astype(np.int64)


def labelled(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """The points of a task's year that have a label, with it in the column ``label``.

    Raises:
        ValueError: for an unknown column.
    """
    if task.column not in table.columns:
        raise ValueError(f"task {task.name}: the labels have no column {task.column!r}; they have {', '.join(table)}")
    wanted = np.ones(len(table), bool) if task.year is None else table["year"].isin([task.year, -1]).to_numpy()
    part = table[wanted & table[task.column].notna().to_numpy()]
    label = part[task.column].astype(np.float64 if task.kind is TaskKind.REGRESSION else str)
    return part.assign(label=label)


def one_per_group(
    table: pd.DataFrame, seed: int, count: int = 1, by: Sequence[str] = ("group", "year")
) -> pd.DataFrame:
    """At most ``count`` points of every group (and year), drawn at random; order of the table kept."""
    order = np.random.default_rng(seed).permutation(len(table))
    rank = table.iloc[order].groupby(list(by)).cumcount().to_numpy()
    return table.iloc[np.sort(order[rank < count])]


def pair_years(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Points of a change task that exist in both years.

    A parcel's first point of one year goes with its first of the other, the second with the second, and so on.

    Returns:
        one row a pair: ``before`` and ``after`` are row positions in ``table``; ``label`` is "changed" or "stable",
        of the later year; ``group``, ``lon``, ``lat`` of the earlier.

    Raises:
        ValueError: when a year is not set or no pair exists.
    """
    if task.year is None or task.year_after is None:
        raise ValueError(f"change task {task.name}: both year and year_after are needed")
    if task.column not in table.columns:
        raise ValueError(f"task {task.name}: the labels have no column {task.column!r}; they have {', '.join(table)}")
    frame = table[["group", "lon", "lat", "year", task.column]].assign(row=np.arange(len(table)))
    frame = frame.assign(rank=frame.groupby(["group", "year"]).cumcount())
    before = frame[frame.year == task.year]
    after = frame[(frame.year == task.year_after) & frame[task.column].notna()]
    pairs = before.merge(after, on=["group", "rank"], suffixes=("", "_after"))
    if pairs.empty:
        raise ValueError(f"change task {task.name}: no parcel has labels in both {task.year} and {task.year_after}")
    changed = pairs[f"{task.column}_after"].astype(bool)
    return pd.DataFrame(
        {
            "before": pairs.row,
            "after": pairs.row_after,
            "label": np.where(changed, "changed", "stable"),
            "group": pairs.group,
            "lon": pairs.lon,
            "lat": pairs.lat,
        }
    )


def split_by_region(table: pd.DataFrame, region: BaseGeometry) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Train and test masks: points inside a WGS 84 region are test points.

    Points outside whose parcel reaches into the region are in neither.
    """
    test = shapely.intersects_xy(region, table["lon"].to_numpy(), table["lat"].to_numpy())
    touched = table["group"].isin(table["group"][test]).to_numpy()
    return ~test & ~touched, test


def split_by_column(table: pd.DataFrame) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Train and test masks from the table's own ``split``; a parcel found in both is a test parcel only.

    Raises:
        ValueError: for a split other than train and test.
    """
    unknown = set(table["split"].dropna()) - {"train", "test"}
    if unknown:
        raise ValueError(f"labels: unknown split {sorted(unknown)}; use train or test")
    test = (table["split"] == "test").to_numpy()
    touched = table["group"].isin(table["group"][test]).to_numpy()
    return (table["split"] == "train").to_numpy() & ~touched, test


def group_folds(groups: Sequence[str], folds: int, seed: int, labels: Sequence[str] | None = None) -> NDArray[np.intp]:
    """Fold of every point, equal for all points of a group and dependent on the group's name and the seed only.

    With ``labels``, groups of one class (a group's most frequent label) are dealt out in turn, so that every fold gets
    its share of each class.
    """
    frame = pd.DataFrame({"group": np.asarray(groups, str)})
    frame["label"] = "" if labels is None else np.asarray(labels, str)
    kinds = frame.groupby("group")["label"].agg(lambda column: column.mode().iloc[0])
    keys = {group: hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).hexdigest() for group in kinds.index}
    fold: dict[str, int] = {}
    for kind in sorted(kinds.unique()):
        # A start that differs from class to class keeps the rare classes from piling up in fold 0.
        start = int(hashlib.blake2b(f"{seed}:{kind}".encode(), digest_size=4).hexdigest(), 16)
        for turn, group in enumerate(sorted(kinds.index[kinds == kind], key=keys.__getitem__)):
            fold[group] = (start + turn) % folds
    return frame["group"].map(fold).to_numpy(np.intp)


def split_by_groups(
    groups: Sequence[str], test_share: float, seed: int, labels: Sequence[str] | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Train and test masks with about ``test_share`` of the groups (of each class, with ``labels``) held out."""
    frame = pd.DataFrame({"group": np.asarray(groups, str)})
    frame["label"] = "" if labels is None else np.asarray(labels, str)
    kinds = frame.groupby("group")["label"].agg(lambda column: column.mode().iloc[0])
    held: set[str] = set()
    for kind in sorted(kinds.unique()):
        members = sorted(
            kinds.index[kinds == kind], key=lambda group: hashlib.blake2b(f"{seed}:{group}".encode()).hexdigest()
        )
        count = round(test_share * len(members))
        if len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held.update(members[:count])
    test = frame["group"].isin(held).to_numpy()
    return ~test, test
