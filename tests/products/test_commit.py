"""One tile, whatever dies, stumbles or runs twice."""

import errno
import multiprocessing
import threading

import numpy as np
import pytest

from pipelines import storage as storage_module
from pipelines.grid import Period
from pipelines.products import commit_tile, committed_tiles, is_committed, read_index, rebuild_index, verify_tile
from pipelines.products.receipt import read_receipt
from pipelines.products.tile import data_path, stac_path
from pipelines.products.zarr_store import read_tile
from pipelines.storage import Storage, StorageFullError
from tests.products.world import COST, YEAR, Killed, Mortal, memory, prepare, product, provenance, tile_at


def objects(storage):
    """Everything on storage, path to bytes."""
    return {path: storage.read_bytes(path) for path in storage.list()}


def test_a_commit_is_complete_and_says_so():
    storage, made = memory(), product()
    prepare(storage)
    key = provenance().identity(made.tile, YEAR)
    assert not is_committed(storage, made.tile, YEAR, key)
    receipt = commit_tile(storage, made, provenance(), COST)
    assert is_committed(storage, made.tile, YEAR, key)
    assert not is_committed(storage, made.tile, YEAR, "another")
    assert not is_committed(storage, made.tile, Period.calendar_year(2021), key)
    assert verify_tile(storage, receipt) == []
    assert committed_tiles(storage) == committed_tiles(storage, "2020") == [receipt]
    assert receipt["pixels"] == made.status_counts
    assert receipt["run"]["seconds"] == 2.5 and receipt["run"]["peak_memory_bytes"] == 10**9
    assert [scene["scene_id"] for scene in receipt["inputs"]] == ["S1A_1", "S2A_1"]
    assert receipt["data"]["sha256"] == storage.sha256(receipt["data"]["path"])


def test_zarr_equals_cog():
    storage, made = memory(), product()
    prepare(storage)
    commit_tile(storage, made, provenance(), COST)
    codes, status = read_tile(storage, made.tile, YEAR)
    np.testing.assert_array_equal(codes, made.embeddings)
    np.testing.assert_array_equal(status, made.status)


def test_committing_again_changes_nothing():
    storage = memory()
    prepare(storage)
    first = commit_tile(storage, product(), provenance(), COST)
    before = objects(storage)
    assert commit_tile(storage, product(nudge=True), provenance()) == first
    assert objects(storage) == before


def writes_of_one_commit():
    storage = memory()
    prepare(storage)
    counting = Mortal(storage.root, fatal=0)
    commit_tile(counting, product(), provenance(), COST)
    return counting.changes


@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write_then_run_again_leaves_one_whole_tile(after):
    total = writes_of_one_commit()
    assert total == 5  # data, counts, moments, receipt, STAC; Zarr is written in between by its own library
    for fatal in range(1, total + 1):
        storage = memory()
        prepare(storage)
        with pytest.raises(Killed):
            commit_tile(Mortal(storage.root, fatal, after), product(), provenance(), COST)
        for receipt in committed_tiles(storage):  # what claims to be committed must be sound at once
            assert verify_tile(storage, receipt) == []
        # The second run's vectors differ in the last code, as another accelerator's would.
        receipt = commit_tile(storage, product(nudge=True), provenance(), COST)
        assert verify_tile(storage, receipt) == [], fatal
        assert len(committed_tiles(storage)) == 1
        assert storage.exists(stac_path(receipt["tile_id"], "2020"))
        assert len(rebuild_index(storage)) == 1


def test_killed_between_cog_and_zarr(monkeypatch):
    storage = memory()
    prepare(storage)
    with monkeypatch.context() as patched:
        patched.setattr("pipelines.products.zarr_store.write_product", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            commit_tile(storage, product(), provenance(), COST)
    assert committed_tiles(storage) == []
    receipt = commit_tile(storage, product(nudge=True), provenance(), COST)
    assert verify_tile(storage, receipt) == []
    # The data that were there first are kept.
    np.testing.assert_array_equal(read_tile(storage, product().tile, YEAR)[0], product().embeddings)


@pytest.mark.parametrize("fatal", [1, 2, 3, 5, 6])
def test_another_identity_replaces_the_tile_and_may_be_killed_meanwhile(fatal):
    newer = provenance(parameters={"margin_px": 32})
    storage = memory()
    prepare(storage)
    commit_tile(storage, product(), provenance(), COST)
    try:
        commit_tile(Mortal(storage.root, fatal), product(seed=5), newer, COST)
    except Killed:
        for receipt in committed_tiles(storage):
            assert verify_tile(storage, receipt) == []
    receipt = commit_tile(storage, product(seed=5), newer, COST)
    assert receipt["identity"] == newer.identity(product().tile, YEAR)
    assert verify_tile(storage, receipt) == []
    np.testing.assert_array_equal(read_tile(storage, product().tile, YEAR)[0], product(seed=5).embeddings)


def test_two_threads_with_different_last_bits_leave_one_tile(tmp_path):
    for attempt in range(2):
        storage = Storage(str(tmp_path / str(attempt)))
        prepare(storage)
        barrier, receipts = threading.Barrier(2), []

        def work(nudge, storage=storage, barrier=barrier, receipts=receipts):
            made = product(nudge=nudge)
            barrier.wait()
            receipts.append(commit_tile(storage, made, provenance(), COST))

        threads = [threading.Thread(target=work, args=(nudge,)) for nudge in (False, True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(receipts) == 2
        assert receipts[0]["data"] == receipts[1]["data"]
        (receipt,) = committed_tiles(storage)
        assert verify_tile(storage, receipt) == []
        assert len(rebuild_index(storage)) == 1


def _commit_in_process(root, seed, nudge):
    commit_tile(Storage(root), product(seed=seed, nudge=nudge), provenance(), COST)


def test_two_processes_on_a_folder_leave_one_tile(tmp_path):
    storage = Storage(str(tmp_path))
    prepare(storage)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_commit_in_process, args=(str(tmp_path), 0, nudge)) for nudge in (False, True)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    (receipt,) = committed_tiles(storage)
    assert verify_tile(storage, receipt) == []
    assert not list(tmp_path.rglob("*.tmp"))


def test_data_replaced_by_another_run_is_noticed_before_the_receipt_is_believed(monkeypatch):
    """An older version of the code writes over our data between our data and our receipt."""
    storage = memory()
    prepare(storage)
    rival = product(seed=9)
    plain = Storage.write_json
    done = []

    def with_rival(self, path, value):
        if path.endswith(".receipt.json") and not done:
            done.append(path)
            other = memory()
            prepare(other)
            commit_tile(other, rival, provenance(code_digest="older"), COST)
            name = data_path(rival.tile.tile_id, "2020")
            self.write_bytes_atomic(name, other.read_bytes(name))
        plain(self, path, value)

    monkeypatch.setattr(Storage, "write_json", with_rival)
    receipt = commit_tile(storage, product(), provenance(), COST)
    assert done
    assert verify_tile(storage, receipt) == []
    np.testing.assert_array_equal(read_tile(storage, rival.tile, YEAR)[0], product().embeddings)


def test_a_broken_copy_of_the_data_is_replaced():
    storage = memory()
    prepare(storage)
    storage.write_bytes_atomic(data_path(product().tile.tile_id, "2020"), b"half a file")
    assert verify_tile(storage, commit_tile(storage, product(), provenance(), COST)) == []


def test_verify_finds_what_is_wrong():
    storage = memory()
    prepare(storage)
    receipt = commit_tile(storage, product(), provenance(), COST)
    path = receipt["data"]["path"]
    good = storage.read_bytes(path)
    other = memory()
    prepare(other)
    commit_tile(other, product(seed=3), provenance(), COST)
    storage.write_bytes_atomic(path, other.read_bytes(path))
    problems = verify_tile(storage, receipt)
    assert any("checksum" in problem for problem in problems)
    assert any("Zarr store and COG differ" in problem for problem in problems)
    storage.delete(path)
    assert verify_tile(storage, receipt) == [f"{path}: missing"]
    storage.write_bytes_atomic(path, good)
    assert verify_tile(storage, receipt) == []


def test_a_full_disk_leaves_the_tile_uncommitted_and_the_next_run_goes_on(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    prepare(storage)
    with monkeypatch.context() as patched:

        def full(handle):
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(storage_module.os, "fsync", full)
        with pytest.raises(StorageFullError, match="no space left under root"):
            commit_tile(storage, product(), provenance(), COST)
    assert committed_tiles(storage) == []
    assert verify_tile(storage, commit_tile(storage, product(), provenance(), COST)) == []


def test_index_holds_what_is_committed_and_nothing_else():
    storage = memory()
    years = [Period.calendar_year(2020), Period.calendar_year(2021)]
    prepare(storage, years)
    tiles = [tile_at(), tile_at(lon=2.52)]
    for tile in tiles:
        for year in years:
            commit_tile(storage, product(tile, year), provenance(), COST)
    # Data without a receipt: a commit that was cut off.
    storage.write_bytes_atomic(data_path("31N_r00000_c00000", "2020"), b"orphan")
    storage.delete(stac_path(tiles[0].tile_id, "2020"))
    frame = rebuild_index(storage)
    assert len(frame) == 4 and frame["year"].tolist() == [2020, 2020, 2021, 2021]
    assert storage.exists(stac_path(tiles[0].tile_id, "2020"))
    assert {"WKT", "path", "year"} <= set(
        storage.read_bytes("embeddings/aef_index.csv").decode().split("\n")[0].split(",")
    )
    assert all(storage.exists("embeddings/" + path) for path in frame["path"])
    assert read_index(storage).geometry.geom_equals_exact(frame.geometry, 1e-9).all()
    first = objects(storage)
    rebuild_index(storage)
    assert objects(storage) == first


def test_receipt_of_what_is_not_there():
    assert read_receipt(memory(), "31N_r00000_c00000", "2020") is None
    with pytest.raises(ValueError, match="run the embed stage first"):
        read_index(memory())
