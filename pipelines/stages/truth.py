"""Truth rasters of a synthetic Earth: only pictures and checks of the report look at them, no score does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected_parts

from pipelines.config import Config, ConfigError
from pipelines.stages.pictures import View, raster_view


def truth_folder(config: Config) -> Path | None:
    """Where truth rasters are; None without."""
    return Path(config.evaluate.truth) if config.evaluate is not None and config.evaluate.truth else None


def check_truth(config: Config) -> None:
    """Truth rasters are for the pictures of a synthetic Earth, which lies on this machine.

    Raises:
        ConfigError: when they are said to be elsewhere.
    """
    if config.evaluate is not None and config.evaluate.truth and "://" in config.evaluate.truth:
        raise ConfigError(
            f"evaluate.truth: {config.evaluate.truth} is not a folder of this machine; copy the rasters here, or leave "
            "the key out: only pictures and checks of the report need it"
        )


def require_truth(config: Config) -> None:
    """Whether the rasters are there, once the synthetic Earth stands.

    Raises:
        ConfigError: when the folder is missing.
    """
    folder = truth_folder(config)
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"evaluate.truth: no folder {folder}; give the folder of truth rasters, or leave the key out")


def truth_files(config: Config) -> list[tuple[str, int]]:
    """Name and size of everything in the folder."""
    folder = truth_folder(config)
    return sorted((file.name, file.stat().st_size) for file in folder.glob("*")) if folder else []


def truth_view(config: Config, view: View, label: str, layer: str) -> NDArray[np.int64] | None:
    """``(h, w)`` codes of a layer in a period, 0 without data; None without truth."""
    folder = truth_folder(config)
    paths = sorted(folder.glob(f"*_{label}_{layer}.tif")) if folder else []
    return raster_view(paths, view).astype(np.int64) if paths else None


def land_cover_codes(config: Config) -> dict[str, int]:
    """The code of every land-cover class by its name in the labels."""
    folder = truth_folder(config)
    assert folder is not None
    legend = json.loads((folder / "legend.json").read_text())["land_cover"]
    return {name: int(code) for code, name in legend.items()}


def parcels(config: Config, view: View, label: str) -> NDArray[np.int64] | None:
    """Connected parts of one class in the truth raster: the parcels of a view; None without truth."""
    codes = truth_view(config, view, label, "class16")
    if codes is None:
        return None
    out, offset = np.zeros(codes.shape, np.int64), 0
    for code in np.unique(codes[codes > 0]):
        parts, count = connected_parts(codes == code)
        out[parts > 0] = parts[parts > 0] + offset
        offset += count
    return out
