"""What goes into the model: tensors by source, and nothing else.

Axes: B batch, N frames, C bands, H rows, W columns, G acquisition-geometry numbers, T text dimensions.
Times are UTC epoch milliseconds in int64 until the sinusoid; periods are half-open ``[start, end)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class FrameSequence:
    """The frames of every input source, each frame an element of one time axis.

    Attributes:
        pixels: per source ``(B, N, C, H, W)`` float, normalised. NaN in a present frame marks a band or pixel that
            was not measured (a missing polarisation, a swath edge).
        time_ms: per source ``(B, N)`` int64, acquisition time.
        present: per source ``(B, N)`` bool; False marks padding or a dropped frame, whose content influences nothing.
    """

    pixels: dict[str, Tensor]
    time_ms: dict[str, Tensor]
    present: dict[str, Tensor]


@dataclass
class Target:
    """Held-out measurements of each sequence that a decoder must reproduce: K a sequence, one as in the paper or more.

    The leading axis is B times K, the K measurements of a sequence side by side; where a sequence has fewer, the rest
    have no weight.

    Attributes:
        values: continuous: ``(B*K, C, H, W)`` float, normalised, NaN allowed where the weight is 0.
            Sources without spatial extent (climate, gravity) have H = W = 1.
            Categorical: ``(B*K, H, W)`` int64 class indices, -1 where unknown.
        weight: ``(B*K, C, H, W)`` (continuous) or ``(B*K, H, W)`` (categorical) float, 0 excludes.
        time_ms: ``(B*K,)`` int64, the instant (middle of the validity for aggregates) that is decoded.
        period: key into :attr:`Batch.periods_ms`, the valid period whose summary is decoded.
        geometry: ``(B*K, G)`` float acquisition geometry (orbit heading, ...), G may be 0.
    """

    values: Tensor
    weight: Tensor
    time_ms: Tensor
    period: str
    geometry: Tensor


@dataclass
class TextTarget:
    """A geolocated text, embedded by a frozen language model.

    Attributes:
        vector: ``(B, T)`` float.
        row, col: ``(B,)`` int64, the pixel at which the text stands.
        present: ``(B,)`` bool, False where a sequence has no text.
        period: key into :attr:`Batch.periods_ms`.
    """

    vector: Tensor
    row: Tensor
    col: Tensor
    present: Tensor
    period: str


@dataclass
class Batch:
    """A training batch.

    Attributes:
        frames: inputs; target frames have already been taken out.
        support_ms: ``(B, 2)`` int64, the support period of each sequence.
        periods_ms: named valid periods, each ``(B, 2)`` int64. Targets refer to them by name, so that one pooled
            summary can serve several decoders.
        targets: by source name; a source absent here costs nothing.
        text: or None.
        site: ``(B,)`` int64, equal for sequences of one place (kept apart by the uniformity loss).
    """

    frames: FrameSequence
    support_ms: Tensor
    periods_ms: dict[str, Tensor]
    targets: dict[str, Target] = field(default_factory=dict)
    text: TextTarget | None = None
    site: Tensor | None = None
