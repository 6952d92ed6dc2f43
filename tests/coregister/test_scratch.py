"""Blocks on the local disk: shared by processes, bounded, never of another version, never a reason to fail."""

from __future__ import annotations

import errno
import multiprocessing
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from pipelines.coregister import empty_node_folder, keep_blocks
from pipelines.coregister.engines import cog, ranges, scratch
from pipelines.coregister.engines.blocks import BLOCK_CACHE_BYTES, BlockCache
from pipelines.coregister.engines.scratch import BlockKey, Scratch, node_scratch
from tests.coregister.served import serve
from tests.coregister.test_cog import crop_of, read, write

TILED = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
SIZE = (1024, 1024)
HALVES = slice(0, 500), slice(500, 1024)
PLACES = list(product(HALVES, HALVES))


def key(number, address="https://x/a.tif", version="1"):
    return BlockKey(address, version, number)


def age(folder, key_, seconds):
    """Makes a block look as if it was used last some seconds ago."""
    path = Scratch(folder, 1)._path(key_)
    os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


def test_what_one_holds_another_finds_by_file_version_and_number(tmp_path):
    Scratch(tmp_path, 1000).put(key(1), b"one")
    other = Scratch(tmp_path, 1000)
    assert other.take(key(1)) == b"one"
    assert other.take(key(2)) is None and other.take(key(1, version="2")) is None
    assert other.take(key(1, address="https://x/b.tif")) is None


def test_the_least_recently_used_goes_first_and_the_folder_keeps_its_bound(tmp_path):
    kept = Scratch(tmp_path, 1000)
    for number in range(9):
        kept.put(key(number), bytes(100))
        age(tmp_path, key(number), 100 - number)
    assert kept.take(key(0)) is not None  # used now
    kept.put(key(9), bytes(300))
    assert kept.take(key(0)) is not None and kept.take(key(9)) is not None
    assert [number for number in range(1, 9) if kept.take(key(number)) is None] == [1, 2, 3]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000
    kept.put(key(10), bytes(1001))
    assert kept.take(key(10)) is None


def test_what_killed_processes_left_is_removed_with_the_rest(tmp_path):
    (tmp_path / "123-0.part").write_bytes(bytes(900))
    os.utime(tmp_path / "123-0.part", (0, 0))
    Scratch(tmp_path, 1000).put(key(0), bytes(200))
    assert [path.stat().st_size for path in tmp_path.iterdir() if path.name != "lock"] == [200]


def test_a_disk_that_has_little_left_is_filled_by_half(tmp_path, monkeypatch):
    kept = Scratch(tmp_path, 1000)
    for number in range(8):
        kept.put(key(number), bytes(100))
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100}))
    Scratch(tmp_path, 1000).put(key(8), bytes(100))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 500


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_is_told_of_once_and_nothing_fails(tmp_path, monkeypatch, caplog, number):
    kept = Scratch(tmp_path, 1000)

    def refuse(self, _content):
        self.touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    kept.put(key(0), b"x")
    kept.put(key(1), b"x")
    assert kept.take(key(0)) is None and list(tmp_path.iterdir()) == []
    assert len(caplog.messages) == 1 and os.strerror(number) in caplog.text


def test_a_folder_that_another_user_could_write_to_is_not_used(tmp_path, monkeypatch, caplog):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="another user"):
        Scratch(tmp_path / "link", 1000)
    monkeypatch.setattr(scratch, "node_folder", lambda: tmp_path / "link")
    node_scratch.cache_clear()
    assert node_scratch(1000) is None and "another user" in caplog.text
    node_scratch.cache_clear()
    assert (Scratch(tmp_path / "own", 1000).folder.stat().st_mode & 0o777) == 0o700


def test_only_ones_own_folder_is_emptied(tmp_path, monkeypatch):
    precious = tmp_path / "elsewhere"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    (tmp_path / "link").symlink_to(precious)
    for name in ("link", "absent"):
        monkeypatch.setattr(scratch, "node_folder", lambda name=name: tmp_path / name)
        empty_node_folder()
    assert (precious / "thesis.txt").exists()
    Scratch(tmp_path / "own", 1000).put(key(0), b"x")
    monkeypatch.setattr(scratch, "node_folder", lambda: tmp_path / "own")
    empty_node_folder()
    assert list((tmp_path / "own").iterdir()) == []


def test_a_disk_on_which_the_bound_cannot_be_kept_is_used_no_longer(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(scratch.fcntl, "flock", no_locks)
    kept = Scratch(tmp_path, 1000)
    for number in range(50):
        kept.put(key(number), bytes(100))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1000 and len(caplog.messages) == 1


def test_memory_hands_over_what_it_has_no_room_for(tmp_path):
    cache = BlockCache(100, Scratch(tmp_path, 1000))
    for number in range(4):
        cache.put(key(number), bytes([number]) * 40, 10, to_disk=number > 0)
    assert cache.take(key(0), 1) is None
    assert cache.take(key(1), 1) == bytes([1]) * 40
    cache.put(key(4), bytes(101), 10)  # larger than memory may hold
    assert cache.held_bytes == 80 and cache.take(key(4), 1) == bytes(101)
    cache.forget("https://x/a.tif")
    assert not any(cache.take(key(number), 1) for number in range(5))


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node's folder of its own; memory that holds no block."""
    monkeypatch.setattr(scratch, "node_folder", lambda: tmp_path / "node")
    node_scratch.cache_clear()
    cog.forget_files()
    keep_blocks(0, 2**30)
    yield tmp_path / "node"
    keep_blocks(BLOCK_CACHE_BYTES)
    node_scratch.cache_clear()
    cog.forget_files()


def quarters(url):
    """A file in four windows that share its blocks."""
    for rows, cols in PLACES:
        window = {
            "row": rows.start,
            "height": rows.stop - rows.start,
            "col": cols.start,
            "width": cols.stop - cols.start,
        }
        yield (rows, cols), read(crop_of(url, **window, size=SIZE))


def test_windows_share_blocks_that_memory_cannot_hold(tmp_path, node):
    values = write(tmp_path / "a.tif", height=1024, width=1024, **TILED)
    size = (tmp_path / "a.tif").stat().st_size
    with serve(tmp_path) as server:
        for place, found in quarters(f"{server.url}/a.tif"):
            np.testing.assert_array_equal(found, values[place])
        assert server.sent < 1.1 * size
        sent = server.sent
        cog.forget_files()  # as another process that starts
        assert all(np.array_equal(found, values[place]) for place, found in quarters(f"{server.url}/a.tif"))
        assert server.sent - sent < 0.62 * size  # 9 of 16 blocks lie in one window each, and nobody else needs them
    keep_blocks(0)
    cog.forget_files()
    with serve(tmp_path) as server:
        assert all(np.array_equal(found, values[place]) for place, found in quarters(f"{server.url}/a.tif"))
        assert server.sent > 1.5 * size  # 25 blocks of 16


def test_a_file_whose_server_tells_no_versions_apart_is_not_kept(tmp_path, node, monkeypatch):
    values = write(tmp_path / "a.tif", height=1024, width=1024, **TILED)
    monkeypatch.setattr(ranges.HttpBytes, "worth_copying", False)
    with serve(tmp_path) as server:
        assert all(np.array_equal(found, values[place]) for place, found in quarters(f"{server.url}/a.tif"))
    assert list(node.iterdir()) == []


@pytest.mark.parametrize(
    ("version", "worth"), [('"x"-10', True), ("Sat, 28 Nov 2026 01:00:00 GMT-10", True), ("-10", False)]
)
def test_what_tells_versions_apart(version, worth):
    source = ranges.HttpBytes("http://127.0.0.1/a.tif")
    source.identity = version
    assert source.worth_copying == worth


@pytest.mark.parametrize("damage", [lambda _: b"", lambda sound: sound[:50], lambda sound: bytes(len(sound))])
def test_a_damaged_copy_is_fetched_again(tmp_path, node, damage):
    values = write(tmp_path / "a.tif", height=1024, width=1024, **TILED)
    with serve(tmp_path) as server:
        list(quarters(f"{server.url}/a.tif"))
        for path in node.iterdir():
            if path.name != "lock":
                path.write_bytes(damage(path.read_bytes()))
        assert all(np.array_equal(found, values[place]) for place, found in quarters(f"{server.url}/a.tif"))


def _read_all(url, folder):
    scratch.node_folder = lambda: folder
    keep_blocks(0, 2**20)  # less than the file: others remove what this one is about to read
    for _ in range(3):
        list(quarters(url))
    return [found.sum() for _, found in quarters(url)]


def test_processes_that_share_the_folder_read_the_same_pixels(tmp_path):
    values = write(tmp_path / "a.tif", height=1024, width=1024, **TILED)
    node = tmp_path / "node"
    with serve(tmp_path) as server, multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(_read_all, [(f"{server.url}/a.tif", node)] * 3)
    assert found == [[values[place].sum() for place in PLACES]] * 3
    assert sum(path.stat().st_size for path in node.iterdir()) <= 1.2 * 2**20
