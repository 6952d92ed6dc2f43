"""AlphaEarth Foundations v2.1 in plain torch. Knows nothing of files, catalogs, clusters or the network."""

from aef_model.batch import Batch, FrameSequence, Target, TextTarget
from aef_model.config import ModelConfig, SourceConfig
from aef_model.model import AlphaEarth, Features, Output

__all__ = [
    "AlphaEarth",
    "Batch",
    "Features",
    "FrameSequence",
    "ModelConfig",
    "Output",
    "SourceConfig",
    "Target",
    "TextTarget",
]
