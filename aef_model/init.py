"""Weights that keep the variance of the signal.

torch's default shrinks a signal by about sqrt(3) a layer while biases and time codes keep their size: after ten layers
the network sees the season and no pixels.
"""

from __future__ import annotations

import math

from torch import nn

RESIDUAL_GAIN = 0.3  # what a branch adds to its trunk at the start, relative to a full-strength layer


def keep_variance(layer: nn.Module, gain: float = 1.0) -> nn.Module:
    """Normal weights of standard deviation ``1.4 gain / sqrt(fan in)`` and zero biases, for a linear or convolution
    layer.

    1.4 makes up for what GELU takes away.
    """
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=1.4 * gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
