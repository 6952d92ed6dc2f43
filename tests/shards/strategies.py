"""Hypothesis strategies for sequences of every shape that the record allows."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.grid import Period, Window
from pipelines.sequence import PointSamples, RasterFrames, Sequence, TextSamples

FLOATS32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
FLOATS64 = st.floats(allow_nan=True, allow_infinity=True)
TIMES = st.integers(-(2**62), 2**62)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def array(dtype, shape, elements=None):
    return hnp.arrays(np.dtype(dtype), shape, elements=elements)


@st.composite
def rasters(draw):
    frames, bands, geometry = draw(st.integers(0, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
    height, width = draw(st.sampled_from([(1, 1), (5, 3), (16, 16)]))
    dtype = draw(st.sampled_from(["<u2", "|u1", "<i2", "<f4", "<f8", ">u2"]))
    return RasterFrames(
        values=draw(hnp.arrays(np.dtype(dtype), (frames, bands, height, width))),
        nodata=draw(st.one_of(st.just(float("nan")), st.integers(-32768, 65535).map(float))),
        weight=draw(array("|u1", (frames, height, width))),
        time_ms=draw(array("<i8", frames, TIMES)),
        valid_ms=draw(array("<i8", (frames, 2), TIMES)),
        scale=draw(array("<f8", (frames, bands), FLOATS64)),
        offset=draw(array("<f8", (frames, bands), FLOATS64)),
        geometry=draw(array("<f4", (frames, geometry), FLOATS32)),
        scene_ids=tuple(draw(st.lists(TEXTS, min_size=frames, max_size=frames))),
    )


@st.composite
def points(draw):
    count, bands = draw(st.integers(0, 5)), draw(st.integers(1, 4))
    return PointSamples(
        row=draw(array("<i4", count)),
        col=draw(array("<i4", count)),
        time_ms=draw(array("<i8", count, TIMES)),
        values=draw(array("<f4", (count, bands), FLOATS32)),
    )


@st.composite
def texts(draw):
    count, size = draw(st.integers(0, 3)), draw(st.integers(1, 5))
    return TextSamples(
        row=draw(array("<i4", count)),
        col=draw(array("<i4", count)),
        valid_ms=draw(array("<i8", (count, 2), TIMES)),
        uncertainty_m=draw(array("<f4", count, FLOATS32)),
        text=tuple(draw(st.lists(TEXTS, min_size=count, max_size=count))) if draw(st.booleans()) else (),
        vector=draw(array("<f4", (count, size), FLOATS32)),
    )


@st.composite
def sequences(draw, sequence_id=None):
    start = draw(st.integers(0, 2**41))
    return Sequence(
        sequence_id=sequence_id or draw(st.text("abc_0123", min_size=1, max_size=8)),
        window=Window(32631, draw(st.integers(0, 9)) * 10, draw(st.integers(-9, 9)) * 10, 16, 5),
        period=Period(start, start + draw(st.integers(1, 2**40))),
        split=draw(st.sampled_from(["train", "test"])),
        rasters=draw(st.dictionaries(st.sampled_from(["sentinel2", "sentinel1", "era5"]), rasters(), max_size=2)),
        points=draw(st.dictionaries(st.just("gedi"), points(), max_size=1)),
        texts=draw(st.none() | texts()),
    )


def assert_same(first, second):
    """Equal in every bit: values, types, NaN payloads."""
    assert (first.sequence_id, first.window, first.period, first.split) == (
        second.sequence_id,
        second.window,
        second.period,
        second.split,
    )
    for kind in ("rasters", "points"):
        assert getattr(first, kind).keys() == getattr(second, kind).keys()
        for name in getattr(first, kind):
            assert_same_record(getattr(first, kind)[name], getattr(second, kind)[name])
    assert (first.texts is None) == (second.texts is None)
    if first.texts is not None:
        assert_same_record(first.texts, second.texts)


def assert_same_record(first, second):
    for name, one in vars(first).items():
        other = getattr(second, name)
        if isinstance(one, np.ndarray):
            assert (one.dtype, one.shape) == (other.dtype, other.shape), name
            assert one.tobytes() == other.tobytes(), name
        elif isinstance(one, float):
            assert one == other or (np.isnan(one) and np.isnan(other)), name
        else:
            assert one == other, name
