"""Who may import whom, read from the source text of every module."""

import ast
import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
FOUNDATION = {
    "sources",
    "grid",
    "scenes",
    "sequence",
    "storage",
    "config",
    "config_errors",
    "config_file",
    "patience",
    "polygons",
}
MIDDLE = {"catalogs", "coregister", "shards", "products", "evaluation", "sandbox"}
ENTRY = {"cli", "doctor"}
# Within the foundation: scenes and sequences hold windows and periods, sources know scenes, the configuration sources.
BELOW = {
    "grid": set(),
    "storage": set(),
    "patience": set(),
    "scenes": {"grid"},
    "sequence": {"grid"},
    "sources": {"grid", "scenes"},
    "config_errors": set(),
    "config_file": {"config_errors"},
    "polygons": {"config_errors", "grid"},
    "config": {"config_errors", "config_file", "grid", "polygons", "sources"},
    "doctor": FOUNDATION | {"catalogs"},
    "cli": FOUNDATION | {"stages", "doctor", "cluster"},
    "stages": FOUNDATION | MIDDLE,
    "cluster": FOUNDATION | {"stages"},
}
WEB = {"starlette", "fastapi", "uvicorn", "stac_fastapi"}
# The stages that hold the model or feed it; the data side knows nothing of it.
MODEL_STAGES = {"train", "embed", "embedder", "checkpoint", "batches", "feed", "modelling", "patches", "flop"}


def imported(tree):
    """Every module name that a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide who depends on whom"
            assert node.module is not None
            # "from pipelines import grid" imports pipelines.grid
            yield from ([f"pipelines.{alias.name}" for alias in node.names] if node.module == "pipelines" else [])
            yield node.module


def area_of(dotted):
    """``pipelines.stages.train`` -> stages; ``cluster.submit`` -> cluster; ``aef_model.batch`` -> aef_model."""
    first, *rest = dotted.split(".")
    return rest[0] if first == "pipelines" and rest else first


def breaches(dotted, text):
    """What a module, given by name and source text, does that its place forbids."""
    tree = ast.parse(text)
    here = area_of(dotted)
    allowed = FOUNDATION if here in MIDDLE else BELOW.get(here, set())
    for name in imported(tree):
        top, there = name.split(".")[0], area_of(name)
        if top in ("pipelines", "cluster") and name != "pipelines" and there != here and there not in allowed:
            yield f"{dotted}: {here} may not import {name}"
        if top in ("ray", "fsspec") and here == "aef_model":
            yield f"{dotted}: the model may not import {name}"
        if top == "ray" and here not in ("stages", "cluster"):
            yield f"{dotted}: only stages and cluster may import ray"
        if (
            top == "aef_model"
            and here not in ("aef_model", "evaluation")
            and not (here == "stages" and dotted.split(".")[-1] in MODEL_STAGES)
        ):
            yield f"{dotted}: may not import the model"
        if top == "pystac_client" and here != "catalogs":
            yield f"{dotted}: only catalogs may talk to a STAC API"
        if top in WEB and here != "sandbox":
            yield f"{dotted}: only sandbox may import a web server ({top})"
        if top in ("tests", "benchmarks"):
            yield f"{dotted}: imports {name}"
    if here not in ("sandbox", "evaluation") and dotted not in ("pipelines.stages.truth", "pipelines.config"):
        for node in ast.walk(tree):
            is_name = isinstance(node, ast.Attribute) and node.attr == "truth"
            is_path = isinstance(node, ast.Constant) and re.search(r"(^|/)truth(/|$)", str(node.value))
            if is_name or is_path:
                yield f"{dotted}: line {node.lineno} reads the truth, which is for the evaluation only"


def modules():
    for package in ("aef_model", "pipelines", "cluster"):
        for path in sorted((PROJECT / package).rglob("*.py")):
            dotted = ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")
            yield pytest.param(dotted, path, id=dotted)


@pytest.mark.parametrize(("dotted", "path"), modules())
def test_a_module_stays_in_its_layer(dotted, path):
    assert list(breaches(dotted, path.read_text())) == []


def test_every_part_of_the_system_has_a_layer():
    parts = {path.stem for path in (PROJECT / "pipelines").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert parts - {"__init__", "__pycache__"} == FOUNDATION | MIDDLE | ENTRY | {"stages"}


@pytest.mark.parametrize(
    ("dotted", "text"),
    [
        ("pipelines.products.cog", "from pipelines.stages.session import log"),
        ("pipelines.products.cog", "def late():\n    from pipelines import coregister"),
        ("pipelines.sources.text", "from pipelines.config import Config"),
        ("pipelines.grid", "import pipelines.scenes"),
        ("pipelines.stages.plan", "from cluster.submit import submit"),
        ("aef_model.model", "from pipelines.grid import Period"),
        ("aef_model.model", "import fsspec"),
        ("aef_model.losses", "from ray import train"),
        ("pipelines.coregister.read", "import ray"),
        ("pipelines.cli", "import ray.data"),
        ("pipelines.stages.ingest", "from aef_model import AlphaEarth"),
        ("pipelines.sources.base", "import aef_model.batch"),
        ("pipelines.stages.plan", "from pystac_client import Client"),
        ("pipelines.stages.earth", "import uvicorn"),
        ("pipelines.catalogs.api", "from stac_fastapi.api import app"),
        ("pipelines.stages.train", "def f(config):\n    return config.evaluate.truth"),
        ("pipelines.coregister.read", "PATH = 'sandbox/truth/labels.parquet'"),
        ("cluster.submit", "from tests.coregister import files"),
    ],
)
def test_a_planted_breach_is_found(dotted, text):
    assert len(list(breaches(dotted, text))) >= 1


@pytest.mark.parametrize(
    ("dotted", "text"),
    [
        (
            "pipelines.stages.train",
            "import ray\nfrom aef_model import AlphaEarth\nfrom pipelines.shards import open_shards",
        ),
        ("pipelines.catalogs.api", "from pystac_client import Client\nfrom pipelines.sources import source"),
        ("pipelines.sandbox.server", "import uvicorn\nfrom starlette.requests import Request"),
        ("pipelines.stages.truth", "def f(config):\n    return config.evaluate.truth"),
        ("pipelines.shards.manifest", "'''The shards are the truth.'''\nimport json"),
    ],
)
def test_what_is_allowed_is_not_called_a_breach(dotted, text):
    assert list(breaches(dotted, text)) == []
