"""The storage promises: whole objects, one winner, clear lines."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import uuid

import pytest

from pipelines import storage as storage_module
from pipelines.storage import Storage, StorageError, StorageFullError


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Storage(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_round_trip_listing_and_glob(store):
    store.write_bytes_atomic("a/b/one.bin", b"1")
    store.write_json("a/two.json", {"b": 1, "a": [1.5, None]})
    store.write_bytes_atomic("a/b/c/three.bin", b"333")
    assert store.list() == ["a/b/c/three.bin", "a/b/one.bin", "a/two.json"]
    assert store.list("a/b", suffix=".bin") == ["a/b/c/three.bin", "a/b/one.bin"]
    assert store.sizes("a/b") == {"a/b/c/three.bin": 3, "a/b/one.bin": 1}
    assert store.list("nothing/here") == [] and store.sizes("nothing/here") == {}
    assert store.glob("a/*/*.bin") == ["a/b/one.bin"]
    assert store.read_json("a/two.json") == {"a": [1.5, None], "b": 1}
    assert store.size("a/b/c/three.bin") == 3
    with store.open("a/b/c/three.bin") as file:
        file.seek(1)
        assert file.read() == b"33"
    store.delete("a/b/one.bin")
    store.delete("a/b/one.bin")
    assert not store.exists("a/b/one.bin")
    assert store.sub("a").list() == ["b/c/three.bin", "two.json"]


def test_exclusive_creation_has_one_winner_and_keeps_its_bytes(store):
    won = []

    def attempt(number):
        if store.create_exclusive("claim", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(1 if not store.is_local else 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.create_exclusive("claim", b"late") is False
    assert len(won) == 1
    assert store.read_bytes("claim") == str(won[0]).encode()


def test_fingerprint_changes_when_an_object_is_replaced(store):
    assert store.fingerprint("x") is None
    store.write_bytes_atomic("x", b"old")
    first = store.fingerprint("x")
    assert first == store.fingerprint("x")
    store.write_bytes_atomic("x", b"new")
    assert store.fingerprint("x") != first


def test_writer_publishes_only_a_finished_file(store):
    with pytest.raises(RuntimeError, match="half way"), store.writer("big.bin") as file:
        file.write(b"part")
        raise RuntimeError("half way")
    assert store.list() == []
    with store.writer("big.bin") as file:
        file.write(b"part")
        file.write(b"s")
        assert not store.exists("big.bin")
    assert store.read_bytes("big.bin") == b"parts"
    assert file.written.size == 5
    assert file.written.sha256 == store.sha256("big.bin")


def test_a_killed_writer_leaves_no_object_and_its_leftover_is_cleaned(tmp_path):
    code = (
        "import os,sys; from pipelines.storage import Storage\n"
        "with Storage(sys.argv[1]).writer('x/y.bin') as f:\n"
        "    f.write(b'half'); f.flush(); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    store = Storage(str(tmp_path))
    assert store.list() == []
    assert len(list((tmp_path / "x").iterdir())) == 1
    assert store.clean_temporaries() == 0  # may still belong to a live writer
    assert store.clean_temporaries(older_than_s=0) == 1
    assert list((tmp_path / "x").iterdir()) == []


def test_a_killed_writer_to_an_object_store_leaves_nothing_on_this_machine(tmp_path):
    code = (
        "import os; from pipelines.storage import Storage\n"
        "with Storage('memory://root').writer('x/y.bin') as f:\n"
        "    f.write(b'half'); f.flush(); os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == -9
    assert list(tmp_path.iterdir()) == []


def test_pickles_to_the_same_root(store):
    store.write_bytes_atomic("k", b"v")
    again = pickle.loads(pickle.dumps(store))
    assert again == store and again.read_bytes("k") == b"v"


def test_full_disk_is_one_clear_line(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    store = Storage(str(tmp_path))
    monkeypatch.setattr(storage_module.os, "fsync", full)
    for write in (store.write_bytes_atomic, store.create_exclusive):
        with pytest.raises(StorageFullError) as caught:
            write("a/tile.tiff", b"123")
        message = str(caught.value)
        assert str(tmp_path) in message and "a/tile.tiff" in message and "free space" in message and "\n" not in message
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), StorageFullError)
    monkeypatch.undo()
    assert store.list() == [] and list((tmp_path / "a").iterdir()) == []


def test_disk_that_fills_while_a_shard_is_written(tmp_path, monkeypatch):
    """The error has to come through pyarrow, which then still tries to finish the file."""
    from pipelines.shards import write_shard
    from tests.shards.test_codec import frames, sequence

    store, plain, left = Storage(str(tmp_path)), storage_module._HashingFile.write, [20_000]

    def filling(self, data):
        left[0] -= len(memoryview(data).cast("B"))
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(self, data)

    monkeypatch.setattr(storage_module._HashingFile, "write", filling)
    with pytest.raises(StorageFullError, match=r"no space left under root .* while writing x\.shard\.parquet"):
        write_shard(store, "x.shard.parquet", [sequence(frames(seed=s), f"s{s}") for s in range(4)])
    assert list(tmp_path.iterdir()) == []


def test_full_disk_for_real():
    """/dev/full answers every write as a full disk does."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    store = Storage("/tmp")
    with pytest.raises(StorageFullError, match="no space left under root"), store.clear_errors("x"):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")


def test_unwritable_root_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = Storage(str(tmp_path / "file" / "root"))
    with pytest.raises(StorageError, match=r"not writable.*choose another root"):
        store.check_writable()


def test_check_writable_leaves_nothing(store):
    store.check_writable()
    assert store.list() == []


def test_bad_roots_and_paths():
    with pytest.raises(ValueError, match="root is empty"):
        Storage("")
    with pytest.raises(ValueError, match=r"nosuch://x.*s3://"):
        Storage("nosuch://x").list()
    with pytest.raises(ValueError, match="leaves the storage root"):
        Storage("/tmp").read_bytes("../etc/passwd")


def test_gdal_path():
    assert Storage("s3://bucket/p").gdal_path("a.tif") == "/vsis3/bucket/p/a.tif"
    assert Storage("gs://bucket").gdal_path("a.tif") == "/vsigs/bucket/a.tif"
    assert Storage("/data").gdal_path("a.tif") == "/data/a.tif"
    with pytest.raises(ValueError, match="GDAL cannot open"):
        Storage("memory://x").gdal_path("a.tif")


def test_broken_json_names_the_file(store):
    store.write_bytes_atomic("bad.json", b"{")
    with pytest.raises(ValueError, match=r"bad\.json is not JSON"):
        store.read_json("bad.json")
