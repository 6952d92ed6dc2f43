"""The trained model at work on one window: normalise, embed patch by patch, lay the middles side by side."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from aef_model import AlphaEarth, FrameSequence
from pipelines.config import Config, Precision
from pipelines.grid import Period
from pipelines.sequence import RasterFrames, Sequence
from pipelines.sources import Source
from pipelines.sources.statistics import Statistics, normalise
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.patches import Patch, lay_out
from pipelines.stages.precision import autocast


@dataclass
class Embedder:
    """A model with everything that turns native pixels into its inputs.

    Attributes:
        model: in evaluation mode, on ``device``.
        statistics, sources: those it was trained with.
        patch_px, margin_px, batch: see :func:`pipelines.stages.patches.lay_out`; patches a forward.
        precision: "auto", "float32" or "bfloat16"; see :mod:`pipelines.stages.precision`.
    """

    model: AlphaEarth
    statistics: Statistics
    sources: dict[str, Source]
    patch_px: int
    margin_px: int
    batch: int
    precision: Precision = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of(cls, config: Config, checkpoint: Checkpoint, *, untrained: bool = False) -> Embedder:
        """The embedder of a checkpoint on this worker's device."""
        model, statistics = checkpoint.build(untrained=untrained)
        device = torch.device("cuda" if config.embed.gpus and torch.cuda.is_available() else "cpu")
        embed = config.embed
        return cls(
            model.to(device),
            statistics,
            checkpoint.sources(),
            embed.patch_px,
            embed.margin_px,
            embed.batch,
            embed.precision,
            device,
        )

    def embed(self, sequence: Sequence, period: Period) -> NDArray[np.float32]:
        """Embeddings of a window.

        Args:
            sequence: of the window *with* its margin; all frames of the support period.
            period: the valid period to summarise.

        Returns:
            ``(H, W, 64)`` of the window without its margin; NaN where no input source measured anything in the patch.
        """
        height, width = (size - 2 * self.margin_px for size in sequence.window.shape)
        out = np.full((height, width, self.model.cfg.embedding_dim), np.nan, np.float32)
        inputs = {name: sequence.rasters[name] for name in self._inputs() if name in sequence.rasters}
        patches = list(lay_out(height, width, self.patch_px, self.margin_px))
        for index in range(0, len(patches), self.batch):
            part = [patch for patch in patches[index : index + self.batch]]
            self._embed_patches(inputs, part, period, out)
        return out

    def embed_whole(self, sequence: Sequence, period: Period) -> NDArray[np.float32]:
        """Embeddings of a window without a margin, edges included, as one patch: ``(H, W, 64)``."""
        height, width = sequence.window.shape
        out = np.full((height, width, self.model.cfg.embedding_dim), np.nan, np.float32)
        inputs = {name: sequence.rasters[name] for name in self._inputs() if name in sequence.rasters}
        self._embed_patches(inputs, [Patch(0, 0, height, width, 0, 0, height, width, 0, 0)], period, out)
        return out

    def _inputs(self) -> list[str]:
        return [source.name for source in self.model.cfg.inputs]

    @torch.inference_mode()
    def _embed_patches(
        self, inputs: dict[str, RasterFrames], patches: list[Patch], period: Period, out: NDArray[np.float32]
    ) -> None:
        frames = FrameSequence({}, {}, {})
        seen = torch.zeros(len(patches), dtype=torch.bool)
        for name, raster in inputs.items():
            pixels = torch.stack([self._normalised(name, raster, patch) for patch in patches])
            # A frame without a single measurement in the patch is absent, not an empty picture.
            present = torch.isfinite(pixels).flatten(2).any(dim=2)
            some = present.any(dim=0)
            if not some.any():
                continue
            frames.pixels[name] = pixels[:, some]
            frames.present[name] = present[:, some]
            time_ms = torch.as_tensor(raster.time_ms)[some.cpu()].to(self.device)
            frames.time_ms[name] = time_ms.expand(len(patches), -1)
            seen |= present.any(dim=1).cpu()
        if not seen.any():
            return
        period_ms = torch.tensor([[period.start_ms, period.end_ms]] * len(patches), device=self.device)
        with autocast(self.precision, self.device):
            embeddings = self.model.embed(frames, period_ms).float().cpu().numpy()
        if not np.isfinite(embeddings).all():
            raise FloatingPointError(
                "the model gives NaN, as one of its weights must be; delete checkpoints/ and run `aef train`"
            )
        for patch, vectors, any_frame in zip(patches, embeddings, seen.tolist(), strict=True):
            if any_frame:
                rows = slice(patch.inner_row, patch.inner_row + patch.keep_height)
                cols = slice(patch.inner_col, patch.inner_col + patch.keep_width)
                out[
                    patch.keep_row : patch.keep_row + patch.keep_height,
                    patch.keep_col : patch.keep_col + patch.keep_width,
                ] = vectors[rows, cols]

    def _normalised(self, name: str, raster: RasterFrames, patch: Patch) -> torch.Tensor:
        rows, cols = slice(patch.row, patch.row + patch.height), slice(patch.col, patch.col + patch.width)
        native = torch.from_numpy(np.ascontiguousarray(raster.values[:, :, rows, cols])).to(self.device)
        scale = torch.as_tensor(raster.scale, dtype=torch.float32, device=self.device)
        offset = torch.as_tensor(raster.offset, dtype=torch.float32, device=self.device)
        return normalise(self.sources[name], self.statistics[name], native, scale, offset, raster.nodata)


def observation_counts(sequence: Sequence, sources: dict[str, Source], margin_px: int) -> dict[str, NDArray[np.uint16]]:
    """Per input source how many trusted observations each pixel of a window has, its margin taken off."""
    height, width = sequence.window.shape
    inner = (slice(margin_px, height - margin_px), slice(margin_px, width - margin_px))
    counts = {}
    for name, source in sources.items():
        if source.is_input:
            raster = sequence.rasters.get(name)
            counts[name] = (
                np.zeros((height - 2 * margin_px, width - 2 * margin_px), np.uint16)
                if raster is None
                else (raster.weight[(slice(None), *inner)] > 0).sum(axis=0).astype(np.uint16)
            )
    return counts
