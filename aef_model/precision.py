"""Where numbers must not be rounded to eight bits."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast. The device of shapes without numbers, on which work is counted, has none to begin with."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)
