"""The stream of samples: fixed by the seed alone, shared out to any number of workers, resumed anywhere."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pipelines.config import TrainConfig
from pipelines.shards import open_shards, write_shard
from pipelines.stages.batches import draw_for
from pipelines.stages.feed import ChunkMaker, Feed, pools_of
from pipelines.storage import Storage
from tests.stages.worlds import config, sequence, sources_of

SEQUENCES = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    configured = config(root)
    storage = Storage(root)
    for shard in range(2):
        # Sequences differ in how many frames they have and in whether there is radar or text at all.
        parts = [
            sequence(
                configured, index, s2=range(10, 300, 30 + 10 * index), s1=(20, 90)[: index % 3], texts=index % 2 == 0
            )
            for index in range(3 * shard, 3 * shard + 3)
        ]
        write_shard(storage, f"shards/train/part{shard}.shard.parquet", parts, {}, code_digest="c")
    return configured, open_shards(storage, "shards").metadata()


def share(value, index):
    """One sample's part of a batch, without what other samples of the batch add to its shape."""
    inputs = {}
    for name, part in value.inputs.items():
        here = part.present[index]
        if here.any():
            inputs[name] = [getattr(part, field)[index][here].tobytes() for field in ("values", "scale", "time_ms")]
    targets = {
        name: (part.values[index].tobytes(), part.time_ms[index], part.weight[index].tobytes())
        for name, part in value.targets.items()
        if part.weight[index].any()
    }
    text = None
    if value.text is not None and value.text.present[index]:
        text = (value.text.vector[index].tobytes(), value.text.row[index], value.text.col[index])
    periods = {name: tuple(period[index]) for name, period in value.periods_ms.items()}
    return value.site[index], inputs, targets, text, periods


def stream(configured, pools, count, seed=5):
    maker = ChunkMaker(configured.model_copy(update={"seed": seed}), pools, 0, 1)
    size = configured.train.batch
    return [maker.address(*divmod(index, size)) for index in range(count)]


def test_every_epoch_takes_each_sequence_once_in_an_order_of_its_own(shards):
    configured, table = shards
    pools = pools_of(table, same_period=False)
    addresses = stream(configured, pools, 4 * SEQUENCES)
    epochs = [addresses[start : start + SEQUENCES] for start in range(0, len(addresses), SEQUENCES)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(pools[0])
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert stream(configured, [pools[0][::-1]], SEQUENCES) == epochs[0]
    assert stream(configured, pools, SEQUENCES, seed=6) != epochs[0]


def test_batches_of_one_period_take_the_periods_in_turn(shards):
    configured, table = shards
    starts = [0, 1] * (SEQUENCES // 2)
    pools = pools_of(table.set_column(table.column_names.index("start_ms"), "start_ms", [starts]), same_period=True)
    assert [len(pool) for pool in pools] == [SEQUENCES // 2] * 2 and not set(pools[0]) & set(pools[1])
    size = configured.train.batch
    addresses = stream(configured, pools, 4 * size)
    for chunk in range(4):
        assert set(addresses[chunk * size : (chunk + 1) * size]) <= set(pools[chunk % 2])


def test_no_target_that_is_read_from_a_shard_is_clouded_all_over(tmp_path):
    """Weights are looked at before frames are chosen: 12 frames, of which 2 show ground."""
    configured = config(tmp_path, train={"whole_period": 1.0, "steps_per_draw": 1})
    whole = sequence(configured, s2=range(10, 250, 20), texts=False)
    optical = whole.rasters["sentinel2"]
    weight = np.zeros_like(optical.weight)
    weight[[4, 9], :, ::2] = 255
    rasters = {**whole.rasters, "sentinel2": replace(optical, weight=weight)}
    path = "shards/train/part.shard.parquet"
    write_shard(Storage(tmp_path), path, [replace(whole, rasters=rasters)], {}, code_digest="c")
    rows = pools_of(open_shards(Storage(tmp_path), "shards").metadata(), same_period=False)
    seen = set()
    for chunk in range(4):
        for batch in ChunkMaker(configured, rows, 0, 1).make(chunk):
            target = batch.targets["sentinel2"]
            assert (target.weight.mean(axis=(1, 2)) == 0.5).all()
            seen |= set(target.time_ms.tolist())
            assert (batch.inputs["sentinel2"].present.sum(axis=1) == 3).all()
    assert seen == set(optical.time_ms[[4, 9]].tolist())


@pytest.mark.parametrize("world", [2, 4])
def test_workers_of_any_number_train_on_the_same_samples(shards, world):
    configured, table = shards
    rows = pools_of(table, same_period=False)
    size = configured.train.batch
    for chunk in range(3):
        whole = list(ChunkMaker(configured, rows, 0, 1).make(chunk))
        parts = [list(ChunkMaker(configured, rows, rank, world).make(chunk)) for rank in range(world)]
        assert len(whole) == configured.train.steps_per_draw and all(len(part) == len(whole) for part in parts)
        for step, batch in enumerate(whole):
            assert len(batch.site) == size
            for position in range(size):
                rank, index = position % world, position // world
                assert share(batch, position) == share(parts[rank][step], index)


def test_steps_of_a_chunk_show_other_places_of_the_same_sequences(shards):
    configured, table = shards
    rows = pools_of(table, same_period=False)
    first, second = ChunkMaker(configured, rows, 0, 1).make(0)
    assert (first.site == second.site).all()
    assert (first.inputs["sentinel2"].time_ms == second.inputs["sentinel2"].time_ms).all()
    assert not np.array_equal(first.inputs["sentinel2"].values, second.inputs["sentinel2"].values)


def test_chunks_and_seeds_differ_and_a_chunk_made_again_is_the_same(shards):
    configured, table = shards
    rows = pools_of(table, same_period=False)

    def made(chunk, settings=configured):
        (batch, _) = ChunkMaker(settings, rows, 0, 1).make(chunk)
        return [share(batch, position) for position in range(configured.train.batch)]

    assert made(1) == made(1)
    assert made(1) != made(2)
    assert made(1) != made(1, configured.model_copy(update={"seed": 1}))


def test_a_resumed_feed_goes_on_where_the_run_was(shards, monkeypatch):
    """From any step, also in mid-chunk and in mid-epoch: the batches of a run that was never stopped."""
    configured, table = shards
    rows = pools_of(table, same_period=False)
    monkeypatch.setattr(Feed, "_ahead", lambda feed, chunks: (list(feed.maker.make(chunk)) for chunk in chunks))

    def batches(first_step):
        found = Feed(configured, rows, 0, 1).batches(first_step)
        return [[share(batch, position) for position in range(configured.train.batch)] for batch in found]

    whole = batches(0)
    assert len(whole) == configured.train.steps == 8 and configured.train.steps_per_draw == 2
    for step in (1, 2, 5, 7):
        assert batches(step) == whole[step:]
    assert batches(8) == []


def test_the_papers_frames_are_drawn_unless_the_configuration_says_otherwise():
    """SPEC 4: 103 = 65 + 17 + 21."""
    assert TrainConfig().max_frames == {"sentinel2": 65, "sentinel1": 17, "landsat": 21}
    assert TrainConfig(max_frames={"sentinel2": 3}).max_frames == {"sentinel2": 3}


def test_many_frames_are_drawn_at_random_to_the_papers_number():
    configured = config(train={"max_frames": TrainConfig().max_frames})
    whole = sequence(configured, s2=range(0, 365, 3), s1=range(0, 365, 6), texts=False)
    sources = sources_of(configured)
    drawn = [draw_for(whole, sources, configured.train, np.random.default_rng(seed)).draw.frames for seed in range(40)]
    for name, most, stored in (("sentinel2", 65, 122), ("sentinel1", 17, 61)):
        assert {len(frames[name]) for frames in drawn} == {most}
        assert all((np.diff(frames[name]) > 0).all() for frames in drawn)
        met = Counter(index for frames in drawn for index in frames[name].tolist())
        assert len(met) == stored and len({tuple(frames[name]) for frames in drawn}) == 40
