"""The shard set's own files: what is derived from the shards is made again from them, what is damaged is named."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from pipelines.config import ConfigError
from pipelines.grid import Site, Window
from pipelines.shards import read_manifest, write_shard
from pipelines.stages import ingest, shard_set, train
from pipelines.stages.commits import Commits, commits_of, start_of_names
from pipelines.stages.groups import groups_of
from pipelines.stages.shard_set import CURRENT, MANIFEST, STATISTICS
from pipelines.stages.sums import SequenceSums
from pipelines.storage import Storage
from tests.stages.worlds import YEAR, config, sequence, sources_of

AGAIN = "delete it and run `aef ingest`, which makes it again"
NOTHING_TO_READ = SimpleNamespace(sites=list, looks=dict)
GARBAGE = b"\xff{ garbage" * 100


@pytest.fixture
def published(tmp_path):
    """A root with two groups of a shard each, published: configuration, storage, shards."""
    configured = config(tmp_path / "root")
    storage = Storage(configured.root)
    shards = []
    for index, split in enumerate(("train", "test")):
        part = sequence(configured, index, split=split)
        sums = SequenceSums()
        sums.add(part, sources_of(configured))
        prefix = f"shards/{split}/group{index}-abc"
        shards.append(write_shard(storage, f"{prefix}-000.shard.parquet", [part], sums.to_dict()))
        commit = {"sites": 1, "shards": [asdict(shards[-1])], "empty": [], "water": [], "failures": [], "doubts": []}
        storage.write_json(f"{prefix}.json", commit)
    shard_set.publish(storage, shards, changed=True)
    return configured, storage, sorted(shards)


def damage(storage, path):
    storage.write_bytes_atomic(path, GARBAGE)


def contents(storage):
    return {path: storage.read_bytes(path) for path in storage.list("shards")}


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("path", [MANIFEST, STATISTICS])
def test_what_is_damaged_and_derived_is_made_again_and_said_in_one_line(published, capsys, path, changed):
    _, storage, shards = published
    sound = contents(storage)
    damage(storage, path)
    capsys.readouterr()
    shard_set.publish(storage, shards, changed=changed)
    told = capsys.readouterr().out
    assert told == f"[ingest] {storage.uri(path)} is damaged: it is made again from the shards\n"
    assert contents(storage) == sound
    shard_set.publish(storage, shards, changed=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("path", [MANIFEST, STATISTICS])
def test_what_is_gone_and_derived_is_made_again(published, capsys, path):
    _, storage, shards = published
    sound = contents(storage)
    storage.delete(path)
    capsys.readouterr()
    shard_set.publish(storage, shards, changed=False)
    assert f"{storage.uri(path)} is missing" in capsys.readouterr().out
    assert contents(storage) == sound


def test_without_a_sound_manifest_shards_are_verified_by_what_was_committed(published):
    configured, storage, shards = published
    assert shard_set.verify(configured) == []
    damage(storage, MANIFEST)
    (problem,) = shard_set.verify(configured)
    assert problem.startswith(f"{storage.uri(MANIFEST)} is damaged (")
    assert problem.endswith("; run `aef ingest`, which makes it again from the shards")
    content = bytearray(storage.read_bytes(shards[0].path))
    content[len(content) // 2] ^= 1
    storage.write_bytes_atomic(shards[0].path, bytes(content))
    assert shard_set.verify(configured)[1:] == [f"{shards[0].path}: checksum differs; {AGAIN}"]
    # Nor does a manifest made anew take the harmed bytes for the right ones.
    shard_set.publish(storage, shards, changed=False)
    assert read_manifest(storage, "shards") == shards
    assert len(shard_set.verify(configured)) == 1


def test_of_a_group_that_was_read_with_several_settings_the_published_commit_counts(published):
    _, storage, shards = published
    (group,) = groups_of([Site.at(Window(32631, 500_000, 5_600_000, 32, 32), "train")], [YEAR], 512)
    (of_train,) = (shard for shard in shards if "/train/" in shard.path)
    start = start_of_names(group)

    def commit(settings):
        path = f"{start}-{settings}-000.shard.parquet"
        storage.write_bytes_atomic(path, storage.read_bytes(of_train.path))
        shard = replace(of_train, path=path)
        figures = {"sites": 1, "shards": [asdict(shard)], "empty": [], "water": [], "failures": [], "doubts": []}
        storage.write_json(f"{start}-{settings}.json", figures)
        return path

    ours, other = commit("abc"), commit("xyz")
    storage.delete(ours)
    assert commits_of(storage, [group], {ours}) == Commits({}, {ours: "missing"})
    found = commits_of(storage, [group], {other})
    assert found.harmed == {} and found.whole[start]["shards"][0]["path"] == other
    assert commits_of(storage, [group], set()) == found
    storage.delete(other)
    assert commits_of(storage, [group], set()) == Commits({}, {other: "missing"})


def test_a_cut_shard_of_an_earlier_set_does_not_keep_a_set_from_being_published(published, caplog):
    configured, storage, shards = published
    left = "shards/train/group0-earlier-000.shard.parquet"
    storage.write_bytes_atomic(left, storage.read_bytes(shards[0].path)[:5000])
    shard_set.publish(storage, shards, changed=True)
    assert read_manifest(storage, "shards") == shards and shard_set.verify(configured) == []
    assert f"{storage.uri(left)} is not a shard" in caplog.text and "left out of the manifest" in caplog.text


def test_a_damaged_commit_of_a_group_is_named(published):
    configured, storage, _ = published
    damage(storage, MANIFEST)
    for content in (b"[]", b'{"sites": 1}', GARBAGE):
        storage.write_bytes_atomic("shards/train/group0-abc.json", content)
        with pytest.raises(ValueError, match=r"shards/train/group0-abc\.json is (damaged|not JSON).*delete it and run"):
            shard_set.verify(configured)


@pytest.mark.parametrize(
    "content", [b"{\n 'red': 1}", GARBAGE, b"[]", b'{"era5": {"t": {"mean": 1}}}', b'{"era5": 3}', None]
)
def test_damaged_statistics_are_named_by_all_who_want_them(published, content):
    configured, storage, _ = published
    storage.delete(STATISTICS)
    if content is not None:
        storage.write_bytes_atomic(STATISTICS, content)
    state = "damaged" if content else "missing"
    said = f"root: {storage.uri(STATISTICS)} is {state}; run `aef ingest`, which makes it again from the shards"
    for command in (train.run, train.status_line, lambda _: shard_set.read_statistics(storage)):
        with pytest.raises(ConfigError) as error:
            command(configured)
        assert str(error.value) == said
    assert shard_set.verify(configured) == [said]


@pytest.mark.parametrize("content", [GARBAGE, b"", b"{}", b"[]", b'{"shards": 3}', b'{"shards": [3]}'])
def test_a_set_that_cannot_be_told_is_said_before_anything_is_read(published, content, monkeypatch):
    configured, storage, _ = published
    storage.write_bytes_atomic(CURRENT, content)
    monkeypatch.setattr("pipelines.stages.ingest.Plan", SimpleNamespace(load=lambda _: NOTHING_TO_READ))
    monkeypatch.setattr("pipelines.stages.ingest.ray_session", lambda _: pytest.fail("began to read"))
    for command in (ingest.run, shard_set.verify, lambda _: shard_set.current_shards(configured, "train")):
        with pytest.raises(ConfigError) as error:
            command(configured)
        remedy = "delete it and run `aef ingest`: shards are kept"
        assert str(error.value) == f"root: {storage.uri(CURRENT)} is damaged; {remedy}"
