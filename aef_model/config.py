"""What a model is, as plain values: its sources, its widths, its losses. Goes into every checkpoint as a dict.

Facts marked "paper" are SPEC sections 1-4; everything else is a decision, said beside the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from torch.nn import ModuleDict

GRID_PX = 16  # the coarsest grid (space operator) is L/16: patch sides are multiples of this

Metric = Literal["l1", "cross_entropy"]


@dataclass(frozen=True)
class SourceConfig:
    """One source as the model sees it.

    Attributes:
        name: key into frames and targets.
        bands: names in channel order; for a categorical source its one band.
        is_input: encoded (every source is also a target).
        classes: class codes of a categorical source, whose index is the target value; None for continuous ones.
        geometry_dim: how many acquisition numbers the decoder is told.
        metric: "l1" or "cross_entropy".
        shift_px: the error is the smallest over all planar shifts up to this many pixels.
        regrid_px: both sides are averaged to cells of this many pixels first (0: none).
        loss_weight: w_i of paper Table S2.
        extent: False for sources with one value a patch (climate, gravity): targets are ``(B, C, 1, 1)``.
        drop_source, drop_frames: the student's probability of losing the whole source, and each frame of it.
    """

    name: str
    bands: tuple[str, ...]
    is_input: bool = False
    classes: tuple[int, ...] | None = None
    geometry_dim: int = 0
    metric: Metric = "l1"
    shift_px: int = 0
    regrid_px: int = 0
    loss_weight: float = 1.0
    extent: bool = True
    drop_source: float = 0.0
    drop_frames: float = 0.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or hasattr(ModuleDict, self.name):
            raise ValueError(
                f"source {self.name!r}: a name is a word of letters, digits and _, and no method of a dict"
            )
        if not self.bands or isinstance(self.bands, str) or len(set(self.bands)) < len(self.bands):
            raise ValueError(f"source {self.name!r}: bands must be a list of names, each once, not {self.bands!r}")
        if self.classes is not None and (not self.classes or len(set(self.classes)) < len(self.classes)):
            raise ValueError(f"source {self.name!r}: classes must be a list of codes, each once")
        for setting in ("geometry_dim", "shift_px", "regrid_px"):
            if not isinstance(getattr(self, setting), int) or getattr(self, setting) < 0:
                raise ValueError(f"source {self.name!r}: {setting} must be a whole number of at least 0")
        for setting, most in (("loss_weight", math.inf), ("drop_source", 1), ("drop_frames", 1)):
            if not (0 <= getattr(self, setting) <= most and math.isfinite(getattr(self, setting))):
                limit = "a number of at least 0" if most == math.inf else "a probability, from 0 to 1"
                raise ValueError(f"source {self.name!r}: {setting} must be {limit}, not {getattr(self, setting)!r}")
        if (self.metric == "cross_entropy") != (self.classes is not None):
            raise ValueError(f"source {self.name!r}: metric 'cross_entropy' and a list of classes go together")
        if self.classes is not None and (self.is_input or not self.extent):
            raise ValueError(f"source {self.name!r}: a categorical source is a target with spatial extent only")
        if self.shift_px and self.regrid_px:
            raise ValueError(f"source {self.name!r}: shift_px and regrid_px exclude each other (paper Table S2)")
        if self.metric == "cross_entropy" and self.shift_px:
            raise ValueError(f"source {self.name!r}: shift_px is for continuous sources")

    @property
    def outputs(self) -> int:
        """Numbers that the decoder predicts a pixel."""
        return len(self.classes) if self.classes is not None else len(self.bands)


# Classes of the National Land Cover Database in the conterminous states (paper: 16).
_NLCD = (11, 12, 21, 22, 23, 24, 31, 41, 42, 43, 52, 71, 81, 82, 90, 95)
# The codes in use of the USDA Cropland Data Layer legend; 0 (background) and 81 (clouds, no data) are no classes.
_CDL_RANGES = (
    (1, 6), (10, 14), (21, 39), (41, 61), (63, 72), (74, 77), (82, 83), (87, 88), (92, 92), (111, 112), (121, 124),
    (131, 131), (141, 143), (152, 152), (176, 176), (190, 190), (195, 195), (204, 250), (254, 254),
)  # fmt: skip
_CDL = tuple(code for low, high in _CDL_RANGES for code in range(low, high + 1))
_ERA5 = tuple(
    f"{variable}_{statistic}"
    for variable, statistics in (
        ("total_precipitation", ("sum", "min", "max")),
        ("temperature_2m", ("mean", "min", "max")),
        ("dewpoint_2m", ("mean", "min", "max")),
        ("surface_pressure", ("mean", "min", "max")),
    )
    for statistic in statistics
)

SENTINEL2_BANDS_5 = ("blue", "green", "red", "nir", "swir16")  # paper
SENTINEL2_BANDS_13 = (
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3",
    "nir", "nir08", "nir09", "cirrus", "swir16", "swir22",
)  # fmt: skip

# Paper Tables S1 and S2, land cover at the v2.1 weight. Acquisition geometry is sine and cosine of the heading, and the
# inclination (Sentinel-1) or the antenna's side (PALSAR-2). ERA5 and GRACE have one value a patch here: their native
# pixels (11 and 55 km) are larger than any patch.
PAPER_SOURCES: tuple[SourceConfig, ...] = (
    SourceConfig("sentinel2", SENTINEL2_BANDS_5, is_input=True, shift_px=2, drop_frames=0.5),
    SourceConfig(
        "sentinel1",
        ("vv", "vh", "hh", "hv", "angle"),
        is_input=True,
        geometry_dim=3,
        shift_px=2,
        drop_source=0.3,
        drop_frames=0.3,
    ),
    SourceConfig(
        "landsat",
        ("blue", "green", "red", "nir08", "swir16", "pan", "lwir11"),
        is_input=True,
        regrid_px=3,
        drop_source=0.3,
        drop_frames=0.3,
    ),
    SourceConfig("palsar2", ("hh", "hv", "lin"), geometry_dim=3, regrid_px=3),
    SourceConfig("era5", _ERA5, extent=False),
    SourceConfig("gedi", tuple(f"rh{height}" for height in range(101)), regrid_px=2),
    SourceConfig("grace", ("lwe_thickness",), regrid_px=128, loss_weight=0.5, extent=False),
    SourceConfig("elevation", ("elevation", "slope_sin", "slope_cos", "aspect_sin", "aspect_cos"), regrid_px=3),
    SourceConfig("nlcd", ("land_cover",), classes=_NLCD, metric="cross_entropy", regrid_px=3, loss_weight=0.25),
    SourceConfig("cdl", ("land_cover",), classes=_CDL, metric="cross_entropy", regrid_px=3, loss_weight=0.25),
)


_CHOICES = {
    "norm": ("pixel", "group"),
    "exchange_up": ("smoothed", "transposed", "bilinear"),
    "upsampling": ("blurred_shuffle", "shuffle", "bilinear"),
    "code_norm": ("none", "batch", "half_white"),
    "attention": ("auto", "matmul", "fused"),
}
_AT_LEAST_ONE = (
    "precision_dim", "time_dim", "space_dim", "blocks", "time_heads", "space_heads", "pool_heads", "pool_dim",
    "decoder_hidden", "embedding_dim", "text_hidden", "consistency_every", "uniformity_stride",
)  # fmt: skip
_NOT_NEGATIVE = (
    "mlp_ratio", "conv_expansion", "reconstruction_weight", "uniformity_weight", "consistency_weight", "text_weight",
    "teacher_drop", "text_dim",
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines the model's parameters and its loss.

    Attributes:
        sources: what is encoded and decoded.
        precision_dim, time_dim, space_dim: widths at L/2, L/8, L/16 (paper: 128, 512, 1024).
        blocks: Space-Time-Precision blocks (paper: 15).
        time_heads, space_heads: attention heads.
        mlp_ratio: hidden width of the attention operators' MLPs over their width.
        conv_expansion: hidden over outer channels of the precision operator.
        space_operator: False leaves the space operator out; its exchange paths go with it.
        norm: "pixel" normalises each cell over its channels, so that a cell never depends on the rest of the tile;
            "group" is GroupNorm over the tile in the precision operator.
        exchange_up: to finer grids: "smoothed", "transposed" or "bilinear" (see exchange.py).
        upsampling: from L/2 to L: "blurred_shuffle", "shuffle" or "bilinear" (see summary.py).
        code_norm: "batch" centres and scales each of the embedding's numbers before it is brought to unit length, by
            the statistics of the global training batch, at inference by their running means; "half_white" evens out
            their directions' variance first (see codenorm.py); "none" leaves it out.
        pool_heads, pool_dim: heads of the attention pooling over time and values a head.
        decoder_hidden: width of the two hidden layers of every decoder (paper: 512).
        embedding_dim, kappa: of the von Mises-Fisher bottleneck; kappa None decodes the mean direction without noise.
        text_dim, text_hidden: input and hidden width of the text head; text_dim 0 leaves it out.
        attention: "auto" (see attention.py: by device, number format and gradient), "matmul" or "fused".
        checkpoint_blocks: recompute blocks, projectors, pooling and decoders in the backward pass instead of keeping
            their activations.
        reconstruction_weight, uniformity_weight, consistency_weight, text_weight: a, b, c, d of eq. 3.
        consistency_every: the student runs every k-th step, its loss scaled by k.
        teacher_drop: the teacher loses frames at this multiple of the student's ``drop_frames`` (v2.1: the same rates).
        uniformity_stride: uniformity looks at every n-th pixel; 1 is all of them.
        whole_period: probability that the consistency period of unforecast students is the whole support.
    """

    sources: tuple[SourceConfig, ...] = PAPER_SOURCES
    precision_dim: int = 128
    time_dim: int = 512
    space_dim: int = 1024
    blocks: int = 15
    time_heads: int = 8
    space_heads: int = 16
    mlp_ratio: float = 4.0
    conv_expansion: float = 1.0
    space_operator: bool = True
    norm: Literal["pixel", "group"] = "pixel"
    exchange_up: Literal["smoothed", "transposed", "bilinear"] = "smoothed"
    upsampling: Literal["blurred_shuffle", "shuffle", "bilinear"] = "blurred_shuffle"
    code_norm: Literal["none", "batch", "half_white"] = "none"
    pool_heads: int = 16
    pool_dim: int = 32
    decoder_hidden: int = 512
    embedding_dim: int = 64
    kappa: float | None = 8000.0
    text_dim: int = 384
    text_hidden: int = 1024
    attention: Literal["auto", "matmul", "fused"] = "auto"
    checkpoint_blocks: bool = False
    reconstruction_weight: float = 1.0
    uniformity_weight: float = 0.05
    consistency_weight: float = 0.02
    text_weight: float = 0.001
    consistency_every: int = 1
    teacher_drop: float = 1.0
    uniformity_stride: int = 1
    whole_period: float = 0.0

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"source {name!r} is listed twice")
        if not any(source.is_input for source in self.sources):
            raise ValueError(f"no source is an input; sources: {', '.join(names) or 'none'}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        for name in _AT_LEAST_ONE:
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {getattr(self, name)!r}")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, not {getattr(self, name)!r}")
        for name, dim in (("mlp_ratio", self.time_dim), ("conv_expansion", self.precision_dim)):
            if int(getattr(self, name) * dim) < 1:
                raise ValueError(f"{name} {getattr(self, name)!r} leaves no hidden channel")
        if not 0 <= self.whole_period <= 1:
            raise ValueError(f"whole_period is a probability, from 0 to 1, not {self.whole_period!r}")
        for heads, dim, what in (
            (self.time_heads, self.time_dim, "time"),
            (self.space_heads, self.space_dim, "space"),
        ):
            if dim % heads or (what == "space" and (dim // heads) % 4):
                raise ValueError(f"{what}_dim {dim} does not divide into {heads} heads (space: of a multiple of 4)")
        if self.norm == "group" and self.precision_dim % 8:
            raise ValueError(f"norm 'group' needs precision_dim divisible by 8, not {self.precision_dim}")

    @property
    def inputs(self) -> tuple[SourceConfig, ...]:
        """The sources that are encoded."""
        return tuple(source for source in self.sources if source.is_input)

    def source(self, name: str) -> SourceConfig:
        """The source of that name.

        Raises:
            ValueError: if the model has none.
        """
        for source in self.sources:
            if source.name == name:
                return source
        raise ValueError(f"unknown source {name!r}; the model has {', '.join(s.name for s in self.sources)}")

    @classmethod
    def named(
        cls,
        name: str,
        inputs: Mapping[str, Sequence[str]] | Iterable[str] | None = None,
        targets: Mapping[str, Sequence[str]] | Iterable[str] | None = None,
        **overrides: Any,
    ) -> Self:
        """A named size: tiny, small, base (the paper's, about 480 M parameters) or large (about 1 B).

        Args:
            name: of the size.
            inputs: which of the sources are encoded, as names or as ``{name: bands}``; default all input sources.
            targets: which further sources are decoded, in the same form; default all target-only sources.
            overrides: any other field; ``sources`` replaces the paper's sources.

        Raises:
            ValueError: for an unknown size, source or field.
        """
        if name not in _SIZES:
            raise ValueError(f"unknown model size {name!r}; there are {', '.join(_SIZES)}")
        unknown = set(overrides) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"unknown model setting {', '.join(sorted(unknown))}")
        sources = tuple(overrides.pop("sources", PAPER_SOURCES))
        kept = _choose(sources, True, inputs) + _choose(sources, False, targets)
        return cls(**{**_SIZES[name], **overrides, "sources": kept})

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts (JSON)."""
        values = asdict(self)
        values["sources"] = [
            {key: list(value) if isinstance(value, tuple) else value for key, value in source.items()}
            for source in values["sources"]
        ]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: for a key that this version does not know.
        """
        for known, given, what in [({f.name for f in fields(cls)}, values, "model setting")] + [
            ({f.name for f in fields(SourceConfig)}, source, "source setting") for source in values.get("sources", [])
        ]:
            if unknown := set(given) - known:
                raise ValueError(f"unknown {what} {', '.join(sorted(unknown))}: the checkpoint is of another version")
        settings = dict(values)
        if "sources" in settings:
            given_sources: list[dict[str, Any]] = [
                {key: tuple(value) if isinstance(value, list) else value for key, value in source.items()}
                for source in settings["sources"]
            ]
            settings["sources"] = tuple(SourceConfig(**source) for source in given_sources)
        return cls(**settings)


def _choose(
    sources: tuple[SourceConfig, ...], is_input: bool, chosen: Mapping[str, Sequence[str]] | Iterable[str] | None
) -> tuple[SourceConfig, ...]:
    available = {source.name: source for source in sources if source.is_input == is_input}
    if chosen is None:
        return tuple(available.values())
    role = "input" if is_input else "target-only"
    bands = dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys(chosen)
    for name in bands:
        if name not in available:
            raise ValueError(f"{name!r} is no {role} source; there are {', '.join(available)}")
    for name, selected in bands.items():
        if isinstance(selected, str):
            raise ValueError(f"{name}: bands must be a list, not {selected!r}")
    return tuple(
        replace(available[name], bands=tuple(selected)) if selected is not None else available[name]
        for name, selected in bands.items()
    )


# tiny follows a study on two CPU cores (docs/decisions.md): narrow, two blocks, b raised to 0.1, the student every
# fourth step, half of the teacher's frame loss (its sequences are short already), exchange paths whose step is a fifth
# faster on a CPU at the same agreement of overlapping patches.
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "precision_dim": 32, "time_dim": 64, "space_dim": 96, "blocks": 2, "time_heads": 4, "space_heads": 4,
        "mlp_ratio": 2.0, "conv_expansion": 2.0, "pool_heads": 12, "pool_dim": 8, "decoder_hidden": 128,
        "text_hidden": 128,
        "exchange_up": "bilinear",
        "uniformity_weight": 0.1, "consistency_every": 4, "teacher_drop": 0.5, "whole_period": 0.5,
    },
    "small": {
        "precision_dim": 64, "time_dim": 192, "space_dim": 384, "blocks": 6, "time_heads": 6, "space_heads": 8,
        "conv_expansion": 2.0, "pool_heads": 16, "pool_dim": 16, "decoder_hidden": 256, "text_hidden": 512,
    },
    "base": {"uniformity_stride": 4},
    "large": {
        "precision_dim": 192, "time_dim": 768, "space_dim": 1536, "blocks": 14, "time_heads": 12, "space_heads": 24,
        "uniformity_stride": 4,
    },
}  # fmt: skip
