"""A checkpoint: everything needed to go on training, or to embed, in one object on storage."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from aef_model import AlphaEarth, ModelConfig
from pipelines.config import Config, ConfigError
from pipelines.sources import Source, source
from pipelines.sources.statistics import Statistics
from pipelines.storage import Storage

FORMAT = 2  # with each change of the parameters' names or shapes


@dataclass
class Checkpoint:
    """One moment of a training run.

    Attributes:
        identity: of the run (data, model, settings); a checkpoint of another run is never continued.
        step: optimiser steps taken.
        steps: of the whole run.
        model: :meth:`ModelConfig.to_dict`.
        bands: per source the bands, in order.
        statistics: :meth:`Statistics.to_json`.
        state, optimizer: tensors by name; the optimizer is left out of a finished run.
        history: one row of figures per reported step.
    """

    identity: str
    step: int
    steps: int
    model: dict[str, Any]
    bands: dict[str, list[str]]
    statistics: str
    state: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    def digest(self) -> str:
        """Hash of what determines an embedding: configuration, bands, statistics and weights."""
        sha = hashlib.sha256(repr((sorted(self.model.items(), key=str), sorted(self.bands.items()))).encode())
        sha.update(self.statistics.encode())
        for name in sorted(self.state):
            tensor = self.state[name].detach().cpu().contiguous().flatten()
            sha.update(f"{name} {tuple(self.state[name].shape)} {tensor.dtype}".encode())
            sha.update(tensor.view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def sources(self) -> dict[str, Source]:
        """The sources as they were trained on: bands in order, and which of them are encoded."""
        encoded = {part["name"] for part in self.model["sources"] if part["is_input"]}
        return {name: replace(source(name, bands), is_input=name in encoded) for name, bands in self.bands.items()}

    def build(self, *, untrained: bool = False) -> tuple[AlphaEarth, Statistics]:
        """The model, in evaluation mode, and the statistics that its inputs are normalised with.

        Args:
            untrained: the same architecture with fresh weights from seed 0, the control of the evaluation.
        """
        torch.manual_seed(0)
        model = AlphaEarth(ModelConfig.from_dict(self.model))
        if not untrained:
            model.load_state_dict(self.state)
        return model.eval(), Statistics.from_json(self.statistics)


def save(storage: Storage, path: str, checkpoint: Checkpoint) -> None:
    """Write atomically."""
    buffer = BytesIO()
    torch.save({"format": FORMAT, **vars(checkpoint)}, buffer)
    storage.write_bytes_atomic(path, buffer.getvalue())


def load(storage: Storage, path: str) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ConfigError: for one of another format, missing or damaged.
    """
    remedy = f"delete {storage.uri(path)} and run `aef train`: it continues from the checkpoint before"
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise ConfigError(f"root: checkpoint {storage.uri(path)} is missing; run `aef train`") from error
    try:
        fields = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(f"root: checkpoint damaged; {remedy}") from error
    if not isinstance(fields, dict) or "format" not in fields:
        raise ConfigError(f"root: no checkpoint of this program; {remedy}")
    if fields.pop("format") != FORMAT:
        raise ConfigError(f"{storage.uri(path)}: checkpoint of another format version; train again with this version")
    return Checkpoint(**fields)


def folder(identity: str) -> str:
    """Where a run's checkpoints are."""
    return f"checkpoints/{identity}"


def steps_on_storage(storage: Storage, identity: str) -> list[int]:
    """Steps of the checkpoints of a run, ascending."""
    names = storage.glob(f"{folder(identity)}/step_*.pt")
    return sorted(int(name.rsplit("step_", 1)[1].removesuffix(".pt")) for name in names)


def path_of(identity: str, step: int) -> str:
    """Path of one checkpoint."""
    return f"{folder(identity)}/step_{step:08d}.pt"


def latest(storage: Storage, identity: str) -> Checkpoint | None:
    """The newest checkpoint of a run, or None."""
    steps = steps_on_storage(storage, identity)
    return load(storage, path_of(identity, steps[-1])) if steps else None


def trained(config: Config) -> Checkpoint:
    """The finished checkpoint that the train stage points to.

    Raises:
        ConfigError: when there is none.
    """
    return load(Storage(config.root), _current(config)["path"])


def current_digest(config: Config) -> str:
    """Digest of the finished checkpoint, without reading it.

    Raises:
        ConfigError: when there is none.
    """
    return str(_current(config)["digest"])


def _current(config: Config) -> dict[str, Any]:
    storage = Storage(config.root)
    if not storage.exists("checkpoints/current.json"):
        raise ConfigError(f"root: no trained model under {config.root}; run `aef train` first")
    current = storage.read_json("checkpoints/current.json")
    if not isinstance(current, dict) or not {"path", "digest"} <= current.keys():
        raise ConfigError(
            f"root: {storage.uri('checkpoints/current.json')} is damaged; delete it and run `aef train`: checkpoints "
            "are kept"
        )
    return current
