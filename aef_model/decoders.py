"""From one pixel's code to what a source measured there, and from a text to the same sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aef_model.bottleneck import to_unit
from aef_model.config import ModelConfig, SourceConfig
from aef_model.init import RESIDUAL_GAIN, keep_variance
from aef_model.timecode import DECODE_TIME_DIM, PERIOD_DIM, decode_time_code, period_code


class Decoder(nn.Module):
    """One source's implicit decoder: an MLP of two hidden layers on (code, relative time, acquisition geometry).

    The code is scaled by sqrt(D), so that its numbers are of the size of the others. Time and geometry are the same for
    all pixels of a frame: their part of the first layer is computed once.
    """

    def __init__(self, cfg: ModelConfig, source: SourceConfig) -> None:
        super().__init__()
        hidden = cfg.decoder_hidden
        self.scale = math.sqrt(cfg.embedding_dim)
        self.code = keep_variance(nn.Linear(cfg.embedding_dim, hidden))
        self.frame = keep_variance(nn.Linear(DECODE_TIME_DIM + source.geometry_dim, hidden, bias=False))
        self.middle = keep_variance(nn.Linear(hidden, hidden))
        self.out = keep_variance(nn.Linear(hidden, source.outputs), RESIDUAL_GAIN)

    def forward(self, code: Tensor, time_ms: Tensor, period_ms: Tensor, geometry: Tensor) -> Tensor:
        """Decode.

        Args:
            code: ``(B, H, W, D)`` unit vectors.
            time_ms: ``(B*K,)`` instants, K of each sequence side by side.
            period_ms: ``(B, 2)`` the period that the code summarises.
            geometry: ``(B*K, G)``; what is no finite number (unknown) counts as 0.

        Returns:
            ``(B*K, H, W, outputs)`` float32: z-scores, or logits of classes.
        """
        frames = len(time_ms) // len(code)
        when = decode_time_code(time_ms, period_ms.repeat_interleave(frames, dim=0))
        about = torch.cat([when, torch.nan_to_num(geometry.float(), posinf=0.0, neginf=0.0)], dim=-1)
        place = self.code(code * self.scale)[:, None]
        x = F.gelu((place + self.frame(about).unflatten(0, (-1, frames))[:, :, None, None]).flatten(0, 1))
        return self.out(F.gelu(self.middle(x))).float()


class TextHead(nn.Module):
    """A frozen language model's vector and a period, to the embedding's sphere; and the contrast's temperature."""

    MAX_LOG_SCALE = math.log(100.0)  # as CLIP

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.text = keep_variance(nn.Linear(cfg.text_dim, cfg.text_hidden))
        self.period = keep_variance(nn.Linear(PERIOD_DIM, cfg.text_hidden, bias=False), 0.3)
        self.middle = keep_variance(nn.Linear(cfg.text_hidden, cfg.text_hidden))
        self.out = keep_variance(nn.Linear(cfg.text_hidden, cfg.embedding_dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, vector: Tensor, period_ms: Tensor) -> Tensor:
        """``(B, T)`` and ``(B, 2)`` to ``(B, D)`` unit vectors. Text vectors may have any length."""
        dim = vector.shape[-1]
        x = F.normalize(vector.float(), dim=-1) * math.sqrt(dim)
        x = F.gelu(self.text(x) + self.period(period_code(period_ms)))
        return to_unit(self.out(F.gelu(self.middle(x))))

    def temperature(self) -> Tensor:
        """The factor on cosines, at most 100."""
        with torch.no_grad():  # the parameter, not its value here: from the limit its gradient may lead back
            self.log_scale.clamp_(max=self.MAX_LOG_SCALE)
        return self.log_scale.exp()
