"""A sequence survives a shard, and a trip through an object store, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.grid import Period, Window
from pipelines.sequence import RasterFrames, Sequence
from pipelines.shards import decode_sequence, encode_sequence, from_bytes, to_bytes
from pipelines.shards.codec import CODECS
from tests.shards.strategies import assert_same, sequences


@settings(max_examples=30, deadline=None)
@given(sequences(), st.sampled_from(CODECS))
def test_rows_and_blobs_round_trip_exactly(sequence, codec):
    assert_same(decode_sequence(encode_sequence(sequence, codec)), sequence)
    assert_same(from_bytes(to_bytes(sequence, codec)), sequence)


@settings(max_examples=10, deadline=None)
@given(sequences())
def test_only_the_sources_asked_for_are_decoded(sequence):
    bare = decode_sequence(encode_sequence(sequence), sources=())
    assert (bare.rasters, bare.points, bare.texts) == ({}, {}, None)
    assert (bare.window, bare.period) == (sequence.window, sequence.period)
    for name in sequence.rasters:
        part = decode_sequence(encode_sequence(sequence), sources=[name])
        assert set(part.rasters) == {name} and not part.points and part.texts is None


def frames(count=6, seed=0):
    r = np.random.default_rng(seed)
    return RasterFrames(
        values=r.integers(0, 9999, (count, 3, 16, 16)).astype("u2"),
        nodata=0,
        weight=r.integers(0, 256, (count, 16, 16)).astype("u1"),
        time_ms=np.arange(count) * 1000,
        valid_ms=np.stack([np.arange(count), np.arange(count) + 1], axis=1),
        scale=r.random((count, 3)),
        offset=r.random((count, 3)),
        geometry=r.random((count, 2), dtype="f4"),
        scene_ids=tuple(f"scene{i}" for i in range(count)),
    )


def sequence(raster, name="s"):
    window = Window(32631, 0, 0, 16, 16)
    return Sequence(name, window, Period.calendar_year(2020), "train", {"sentinel2": raster})


@pytest.mark.parametrize("codec", CODECS)
def test_chosen_frames_come_in_the_order_asked_for(codec):
    whole = frames()
    part = decode_sequence(encode_sequence(sequence(whole), codec), frames={"sentinel2": [4, 0]}).rasters["sentinel2"]
    for name in ("values", "weight", "time_ms", "valid_ms", "scale", "offset", "geometry"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[[4, 0]])
    assert part.scene_ids == ("scene4", "scene0")


def test_decoded_arrays_may_be_written_to():
    raster = from_bytes(to_bytes(sequence(frames()))).rasters["sentinel2"]
    raster.values[0] = 1
    raster.weight[0] = 1


def test_compression_pays_on_smooth_data():
    ramp = np.broadcast_to(np.arange(64, dtype="u2")[None, None, None, :] * 40, (8, 3, 64, 64)).copy()
    whole = frames(8)
    smooth = RasterFrames(**{**vars(whole), "values": ramp, "weight": np.zeros((8, 64, 64), "u1")})
    assert len(to_bytes(sequence(smooth))) < 0.2 * len(to_bytes(sequence(smooth), "raw"))


def test_loss_of_precision_and_bad_shapes_are_refused():
    whole = frames()
    with pytest.raises(ValueError, match="cannot be stored as uint8 without loss"):
        encode_sequence(sequence(RasterFrames(**{**vars(whole), "weight": whole.weight.astype("f4")})))
    with pytest.raises(ValueError, match="weight has shape"):
        encode_sequence(sequence(RasterFrames(**{**vars(whole), "weight": whole.weight[:, :3]})))
    with pytest.raises(ValueError, match="unknown shard codec 'gzip'; it is one of lz4, zstd, raw"):
        encode_sequence(sequence(whole), "gzip")
