"""Small configurations and sequences whose pixels say where and when they are."""

import numpy as np

from pipelines.config import Config
from pipelines.grid import DAY_MS, Period, Window
from pipelines.sequence import PointSamples, RasterFrames, Sequence, TextSamples
from pipelines.sources.base import Kind

YEAR = Period.calendar_year(2021)
CLASSES = {1: "water", 4: "trees", 9: "crops"}


def config(root="memory://", **sections):
    """Sentinel-2 and Sentinel-1 as inputs, one target of every other kind."""
    catalog = {"catalog": "here", "collections": ["any"]}
    sources = {
        "sentinel2": {**catalog, "bands": ["red", "nir"]},
        "sentinel1": {**catalog, "bands": ["vv", "vh"]},
        "era5": catalog,
        "gedi": catalog,
        "landcover": {**catalog, "classes": CLASSES},
        "text": catalog,
    }
    train = {"batch": 4, "workers": 2, "crop_px": 16, "steps_per_draw": 2, "steps": 8, "max_frames": {"sentinel2": 3}}
    tree = {
        "root": str(root),
        "area": {"bbox": [4.0, 50.0, 4.1, 50.1]},
        "periods": [["2021-01-01", "2022-01-01"]],
        "catalogs": {"here": {"kind": "static", "url": "/none"}},
        "sources": sources,
        **sections,
        "train": {**train, **sections.get("train", {})},
    }
    return Config.model_validate(tree)


def sources_of(configured):
    return {name: configured.source(name) for name in configured.sources}


def raster(source, days, shape, start=1):
    """Frames whose value is ``start + 2000 * frame + 40 * row + col`` in every band; scales differ by frame."""
    count, bands = len(days), len(source.bands)
    height, width = (1, 1) if source.kind is Kind.SERIES else shape
    frame, row, col = np.meshgrid(np.arange(count), np.arange(height), np.arange(width), indexing="ij")
    values = np.repeat((start + 2000 * frame + 40 * row + col)[:, None], bands, axis=1).astype(source.dtype)
    time_ms = YEAR.start_ms + np.asarray(days, np.int64) * DAY_MS
    return RasterFrames(
        values=values,
        nodata=float(source.nodata),
        weight=np.full((count, height, width), 255, np.uint8),
        time_ms=time_ms,
        valid_ms=np.stack([time_ms, time_ms + 1], axis=1),
        scale=np.repeat(1.0 + np.arange(count)[:, None], bands, axis=1),
        offset=np.repeat(-np.arange(count, dtype=float)[:, None], bands, axis=1),
        geometry=np.repeat(np.arange(count, dtype=np.float32)[:, None], len(source.geometry_names), axis=1),
        scene_ids=tuple(f"{source.name}_{day}" for day in days),
    )


def sequence(configured, index=0, size=32, s2=(10, 60, 110, 160, 210), s1=(20, 120, 220), split="train", texts=True):
    """A sequence of everything, ``size`` pixels square, at a place of its own."""
    sources = sources_of(configured)
    shape = (size, size)
    classes = raster(sources["landcover"], [180], shape)
    rows = np.arange(size) // 8
    codes = np.array([1, 4, 9, 0, 77], np.uint8)[rows % 5]  # 0: not mapped, 77: not in the legend
    values = np.broadcast_to(codes[:, None], shape)[None, None].copy()
    footprints = np.arange(0, size, 8, dtype=np.int32)
    rasters = {
        "sentinel2": raster(sources["sentinel2"], s2, shape),
        "sentinel1": raster(sources["sentinel1"], s1, shape),
        "era5": raster(sources["era5"], [15, 45, 75], shape),
        "landcover": RasterFrames(**{**vars(classes), "values": values}),
    }
    heights = np.repeat(footprints[:, None] + 0.5, len(sources["gedi"].bands), axis=1).astype(np.float32)
    return Sequence(
        sequence_id=f"site{index}",
        window=Window(32631, 500_000 + 10_000 * index, 5_600_000, size, size),
        period=YEAR,
        split=split,
        rasters={name: found for name, found in rasters.items() if len(found.time_ms)},
        points={
            "gedi": PointSamples(footprints, footprints, YEAR.start_ms + footprints.astype(np.int64) * DAY_MS, heights)
        },
        texts=TextSamples(
            row=np.array([3, 20], np.int32),
            col=np.array([4, 21], np.int32),
            valid_ms=np.array([[YEAR.start_ms, YEAR.end_ms]] * 2, np.int64),
            uncertainty_m=np.array([5, 5], np.float32),
            text=(),
            vector=np.eye(2, 4, dtype=np.float32),
        )
        if texts
        else None,
    )


def write_counts(storage, counts):
    """A plan of which only the numbers matter."""
    storage.write_json("plan/plan.json", {"identity": "", "cells": [], "looks": {}, "scenes": 0, "counts": counts})
