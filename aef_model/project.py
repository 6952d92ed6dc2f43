"""From a source's pixels to the common width on the L/2 grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aef_model.init import RESIDUAL_GAIN, keep_variance
from aef_model.timecode import TIME_DIM


class Projector(nn.Module):
    """One source's learned down-projection: 2x2 patches of values and validity, its date, a small MLP.

    A pixel that was not measured in a frame that is there is zero in the values and zero in its band's validity
    channel, so that a missing polarisation and a swath edge are told apart from an average pixel.
    The date comes in here because the precision operator otherwise meets it only by way of the coarser grids.
    """

    def __init__(self, bands: int, dim: int) -> None:
        super().__init__()
        self.patch = keep_variance(nn.Conv2d(2 * bands, dim, kernel_size=2, stride=2))
        self.date = keep_variance(nn.Linear(TIME_DIM, dim, bias=False), 0.7)
        self.norm = nn.LayerNorm(dim)
        self.widen = keep_variance(nn.Linear(dim, 2 * dim))
        self.narrow = keep_variance(nn.Linear(2 * dim, dim), RESIDUAL_GAIN)

    def forward(self, pixels: Tensor, present: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Project frames.

        Args:
            pixels: ``(M, C, H, W)``, NaN where not measured.
            present: ``(M,)`` bool; the content of absent frames, whatever it is, becomes zero.
            code: ``(M, TIME_DIM)``.

        Returns:
            ``(M, H/2, W/2, dim)``, and ``(M, H/2, W/2)`` bool: cells in which the frame measured anything.
        """
        measured = torch.isfinite(pixels) & present[:, None, None, None]
        values = torch.where(measured, pixels, 0.0)
        x = torch.cat([values, measured.to(values.dtype)], dim=1).contiguous(memory_format=torch.channels_last)
        x = self.patch(x).permute(0, 2, 3, 1) + self.date(code)[:, None, None, :]
        cells = measured.any(dim=1).unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).any(dim=4).any(dim=2)
        return x + self.narrow(F.gelu(self.widen(self.norm(x)))), cells
