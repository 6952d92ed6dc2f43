"""Vectors on storage: what was added is found, bit for bit, a look-up reads little, and a crash costs one part."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.sequence import TextSamples
from pipelines.stages import texts as stage
from pipelines.stages.outage import OutageError
from pipelines.stages.texts import TextVectors, text_key
from pipelines.stages.vector_store import GROUP_ROWS, VectorStore
from pipelines.storage import Storage


def samples(*texts):
    count = len(texts)
    zeros = np.zeros(count, np.int32)
    return TextSamples(
        zeros, zeros, np.zeros((count, 2), np.int64), np.zeros(count, np.float32), texts, np.empty((count, 0))
    )


@pytest.fixture
def encoded(monkeypatch):
    """Stands in for the language model; the texts of every call."""
    calls = []

    def encode(texts, _encoder):
        calls.append(list(texts))
        return np.array([[len(text), *map(ord, text[:3].ljust(3))] for text in texts], np.float32) / 7

    monkeypatch.setattr(stage, "encode", encode)
    return calls


def test_every_vector_is_found_in_whatever_part_it_lies(tmp_path):
    store = VectorStore(Storage(str(tmp_path)), "vectors")
    rng = np.random.default_rng(0)
    keys = sorted(text_key(str(number)) for number in range(3 * GROUP_ROWS + 5))
    vectors = rng.normal(size=(len(keys), 6)).astype(np.float32)
    odd = np.arange(len(keys)) % 2 == 1
    for part in (odd, ~odd):
        store.add([key for key, taken in zip(keys, part, strict=True) if taken], vectors[part])
    assert store.known([*keys[::2], text_key("nobody")]) == set(keys[::2])
    found = store.look_up([*keys, text_key("nobody")])
    assert found.keys() == set(keys)
    np.testing.assert_array_equal(np.stack([found[key] for key in keys]), vectors)
    assert VectorStore(Storage(str(tmp_path)), "others").look_up(keys) == {}


def test_a_look_up_reads_few_row_groups(tmp_path, monkeypatch):
    store = VectorStore(Storage(str(tmp_path)), "vectors")
    keys = sorted(text_key(str(number)) for number in range(40 * GROUP_ROWS))
    for start in range(0, len(keys), 20 * GROUP_ROWS):
        part = keys[start : start + 20 * GROUP_ROWS]
        store.add(part, np.zeros((len(part), 4), np.float32))
    read = []
    read_row_group = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a: read.append(a[1]) or read_row_group(*a))
    assert len(store.look_up(keys[7000:7003])) == 3
    assert len(read) <= 2


def test_texts_become_their_vectors_once(tmp_path, encoded):
    vectors = TextVectors(Storage(str(tmp_path)), "model")
    assert vectors.add(["b", "a", "b"]) == 2 and vectors.add(["a", "ccc"]) == 1 and vectors.add(["a"]) == 0
    assert sorted(text for call in encoded for text in call) == ["a", "b", "ccc"]
    again = TextVectors(Storage(str(tmp_path)), "model")
    found = again.attach(samples("ccc", "a", "ccc"))
    assert found.text == () and found.vector.dtype == np.float32
    np.testing.assert_array_equal(found.vector[:, 0], np.float32([3, 1, 3]) / 7)
    with pytest.raises(OutageError, match="2 texts could not be read"):
        again.attach(samples("a", "x", "y"))
    with pytest.raises(OutageError):
        TextVectors(Storage(str(tmp_path)), "another model").attach(samples("a"))


def test_what_is_encoded_after_a_crash_is_what_an_unharmed_run_encodes(tmp_path, encoded, monkeypatch):
    """Of a batch the lengths decide the last bits of every vector in it."""
    monkeypatch.setattr(stage, "PART_TEXTS", 4)
    texts = [f"text {number}" for number in range(11)]
    assert TextVectors(Storage(str(tmp_path / "whole")), "model").add(texts) == 11
    whole = encoded.copy()
    encoded.clear()
    sound = stage.encode

    def crashes(part, encoder):
        if len(encoded) == 1:
            raise KeyboardInterrupt
        return sound(part, encoder)

    harmed = TextVectors(Storage(str(tmp_path / "harmed")), "model")
    monkeypatch.setattr(stage, "encode", crashes)
    with pytest.raises(KeyboardInterrupt):
        harmed.add(texts)
    monkeypatch.setattr(stage, "encode", sound)
    assert harmed.add(reversed(texts)) == 7
    assert encoded == whole
    one, other = (Storage(str(tmp_path / name)) for name in ("whole", "harmed"))
    assert one.list() == other.list()
    assert [one.read_bytes(path) for path in one.list()] == [other.read_bytes(path) for path in other.list()]
