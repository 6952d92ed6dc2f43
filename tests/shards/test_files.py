"""Shards on storage: deterministic, whole or absent, read in any order by any number of workers."""

import dataclasses
import subprocess
import sys
import tracemalloc
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sequence import PointSamples
from pipelines.shards import (
    DamagedManifestError,
    open_shards,
    read_manifest,
    read_rows,
    read_shard,
    shard_for_rank,
    shuffled_rows,
    update_manifest,
    verify_shards,
    write_shard,
)
from pipelines.storage import Storage
from tests.shards.strategies import assert_same, sequences
from tests.shards.test_codec import frames, sequence


@pytest.fixture
def store():
    return Storage(f"memory://{uuid.uuid4().hex}")


def fill(store, shards=3, rows=4):
    infos = []
    for shard in range(shards):
        part = [sequence(frames(seed=10 * shard + row), f"s{shard}_{row}") for row in range(rows)]
        part[0] = dataclasses.replace(part[0], split="test")
        infos.append(write_shard(store, f"shards/b{shard}.shard.parquet", part, {"n": shard}, code_digest="c0de"))
    return infos


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True), st.data())
def test_any_sequences_round_trip_through_a_shard(ids, data):
    store = Storage(f"memory://{uuid.uuid4().hex}")
    wanted = [data.draw(sequences(f"id{i}")) for i in ids]
    info = write_shard(store, "x.shard.parquet", wanted)
    assert info.sequences == len(wanted)
    for one, other in zip(read_shard(store, "x.shard.parquet"), wanted, strict=True):
        assert_same(one, other)


def test_the_same_sequences_are_the_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys\n"
        "from tests.shards.test_codec import frames, sequence\n"
        "from pipelines.shards import write_shard; from pipelines.storage import Storage\n"
        "print(write_shard(Storage(sys.argv[1]), 'x.shard.parquet',"
        " [sequence(frames(seed=s), f's{s}') for s in range(3)], {'b': 1, 'a': 2}).sha256)\n"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / str(run))],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(run), "PYTHONPATH": ".", "PATH": "/usr/bin:/bin"},
        ).stdout
        for run in range(2)
    ]
    assert runs[0] == runs[1]
    files = [(tmp_path / str(run) / "x.shard.parquet").read_bytes() for run in range(2)]
    assert files[0] == files[1]


def test_one_row_group_a_sequence(store):
    fill(store, shards=1)
    with store.open("shards/b0.shard.parquet") as file:
        metadata = pq.ParquetFile(file).metadata
    assert metadata.num_row_groups == metadata.num_rows == 4


def test_a_failing_source_of_sequences_leaves_no_shard(store):
    def broken():
        yield sequence(frames(), "one")
        raise OSError("scene lost")

    with pytest.raises(OSError, match="scene lost"):
        write_shard(store, "x.shard.parquet", broken())
    assert store.list() == []


def test_a_shard_holds_one_sequence_at_a_time(tmp_path, monkeypatch):
    """Ten of 6 MB that do not compress."""
    monkeypatch.setattr("pipelines.shards.writer.HELD_BYTES", 2**20)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**16, (6, 3, 408, 408)).astype("u2")
    large = dataclasses.replace(frames(6), values=noise, weight=np.zeros((6, 408, 408), np.uint8))
    tracemalloc.start()
    info = write_shard(Storage(tmp_path), "a.shard.parquet", (sequence(large, f"s{index}") for index in range(10)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert info.size > 59e6 and peak < 25e6, peak


def test_statistics_may_be_gathered_on_the_way(store):
    seen = []

    def passing():
        for index in range(3):
            seen.append(index)
            yield sequence(frames(), f"s{index}")

    write_shard(store, "x.shard.parquet", passing(), lambda: {"sequences": len(seen)})
    assert open_shards(store).statistics == {"x.shard.parquet": {"sequences": 3}}


def test_footers_tell_what_is_there(store):
    infos = fill(store)
    found = open_shards(store, "shards")
    assert [dataclasses.replace(info, sha256="") for info in infos] == list(found.shards)
    assert (found.sequences, found.sources) == (12, ("sentinel2",))
    assert found.statistics["shards/b2.shard.parquet"] == {"n": 2}
    assert set(found.code_digests.values()) == {"c0de"}
    table = found.metadata().to_pandas()
    assert table["sequence_id"].tolist() == [f"s{shard}_{row}" for shard in range(3) for row in range(4)]
    assert set(table["sentinel2.frames"]) == {6} and set(table["epsg"]) == {32631}
    assert found.rows("test") == [(path, 0) for path in found.paths]
    assert len(found.rows("train")) == 9


def test_metadata_reads_no_pixels(store, monkeypatch):
    big = [sequence(frames(60, seed), f"s{seed}") for seed in range(4)]
    info = write_shard(store, "x.shard.parquet", big)
    found = open_shards(store)
    read = []
    plain = Storage.open

    class Counting:
        def __init__(self, file):
            self.file = file

        def read(self, *size):
            data = self.file.read(*size)
            read.append(len(data))
            return data

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr(Storage, "open", lambda self, path: Counting(plain(self, path)))
    assert found.metadata().num_rows == 4
    assert 0 < sum(read) < 0.25 * info.size


def test_rows_and_sources_are_chosen(store):
    points = PointSamples(np.zeros(2, "i4"), np.ones(2, "i4"), np.arange(2), np.ones((2, 3), "f4"))
    with_points = dataclasses.replace(sequence(frames(), "a"), points={"gedi": points})
    write_shard(store, "x.shard.parquet", [with_points, sequence(frames(seed=1), "b")])
    got = list(read_shard(store, "x.shard.parquet", rows=[1, 0], sources=["gedi"]))
    assert [one.sequence_id for one in got] == ["b", "a"]
    assert [set(one.rasters) for one in got] == [set(), set()]
    assert [set(one.points) for one in got] == [set(), {"gedi"}]
    assert open_shards(store).metadata()["gedi.frames"].to_pylist() == [2, 0]


def test_frames_are_chosen_from_times_alone(store):
    write_shard(store, "x.shard.parquet", [sequence(frames(), "a")])

    def late(bare):
        assert bare.rasters["sentinel2"].values.size == 0
        return {"sentinel2": np.flatnonzero(bare.rasters["sentinel2"].time_ms >= 4000)}

    (got,) = read_shard(store, "x.shard.parquet", frames=late)
    np.testing.assert_array_equal(got.rasters["sentinel2"].values, frames().values[4:])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 5), st.integers(1, 7), st.permutations(range(4)))
def test_the_order_is_the_same_for_any_number_of_workers(seed, epoch, world, arrangement):
    rows = [(f"p{shard}", row) for shard in range(4) for row in range(5)]
    order = shuffled_rows(rows, seed, epoch)
    assert sorted(order) == rows
    assert order == shuffled_rows(
        [row for shard in arrangement for row in rows[shard * 5 : shard * 5 + 5]], seed, epoch
    )
    parts = [shard_for_rank(order, rank, world) for rank in range(world)]
    together = [part[step] for step in range(-(-len(order) // world)) for part in parts if step < len(part)]
    assert together == order
    even = [shard_for_rank(order, rank, world, even=True) for rank in range(world)]
    assert {len(part) for part in even} == {len(order) // world}


def test_epochs_and_seeds_differ(store):
    infos = fill(store)
    orders = {tuple(shuffled_rows(infos, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    with pytest.raises(ValueError, match="rank 2 is not among 2 workers"):
        shard_for_rank([], 2, 2)


def test_reading_by_address_keeps_few_files_open(store, monkeypatch):
    infos = fill(store)
    monkeypatch.setattr("pipelines.shards.reader.OPEN_FILES", 1)
    order = shuffled_rows(infos, 0, 0)
    got = [one.sequence_id for one in read_rows(store, order)]
    assert got == [f"s{path[8]}_{row}" for path, row in order]


def test_manifest_follows_storage(store):
    infos = fill(store)
    assert update_manifest(store, "shards", known=infos[:1]) == infos
    assert read_manifest(store, "shards") == infos
    assert verify_shards(store, "shards", infos) == {}
    first = store.read_bytes("shards/manifest.parquet")
    update_manifest(store, "shards")
    assert store.read_bytes("shards/manifest.parquet") == first
    store.delete(infos[1].path)
    extra = write_shard(store, "shards/z.shard.parquet", [sequence(frames(), "z")])
    assert verify_shards(store, "shards", infos) == {infos[1].path: "missing", extra.path: "not listed"}
    assert update_manifest(store, "shards") == [infos[0], infos[2], extra]
    data = bytearray(store.read_bytes(infos[0].path))
    data[len(data) // 2] ^= 1
    store.write_bytes_atomic(infos[0].path, bytes(data))
    store.write_bytes_atomic(infos[2].path, store.read_bytes(infos[2].path)[:99])
    assert verify_shards(store, "shards", [infos[0], infos[2], extra]) == {
        infos[0].path: "checksum differs",
        infos[2].path: f"damaged (99 bytes, not {infos[2].size})",
    }


def garbage(_content):
    return b"garbage" * 100


def half(content):
    return content[: len(content) // 2]


def unreadable_pages(content):
    return content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :]


def another_table(_content):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"shard": ["a"], "more": [1]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("harm", [garbage, half, unreadable_pages, another_table])
def test_a_damaged_manifest_is_named_and_made_anew(store, harm):
    infos = fill(store)
    update_manifest(store, "shards")
    sound = store.read_bytes("shards/manifest.parquet")
    store.write_bytes_atomic("shards/manifest.parquet", harm(sound))
    with pytest.raises(DamagedManifestError, match=r"/shards/manifest\.parquet is damaged .* `aef ingest`") as error:
        read_manifest(store, "shards")
    assert "\n" not in str(error.value)
    assert update_manifest(store, "shards") == infos
    assert store.read_bytes("shards/manifest.parquet") == sound


def test_what_is_not_a_shard_is_named(store):
    store.write_bytes_atomic("a.shard.parquet", b"nonsense" * 20)
    with pytest.raises(ValueError, match=r"a\.shard\.parquet is not a shard.*ingest again"):
        open_shards(store)
    with pytest.raises(ValueError, match=r"must end in \.shard\.parquet"):
        write_shard(store, "b.parquet", [sequence(frames())])
    with pytest.raises(ValueError, match="would hold no sequence"):
        write_shard(store, "b.shard.parquet", [])
    with pytest.raises(ValueError, match="sequence s comes twice"):
        write_shard(store, "b.shard.parquet", [sequence(frames()), sequence(frames())])
