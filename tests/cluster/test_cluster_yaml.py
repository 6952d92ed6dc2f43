"""cluster.yaml is what Ray's autoscaler accepts, by Ray's own schema and checks, and does what its comments say."""

import copy
import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PROJECT = Path(__file__).parent.parent.parent
SCHEMA = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())


@pytest.fixture
def cluster():
    return yaml.safe_load((PROJECT / "cluster.yaml").read_text())


def test_ray_accepts_it(cluster):
    jsonschema.validate(cluster, SCHEMA)
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    assert prepared["available_node_types"].keys() == cluster["available_node_types"].keys()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tree: tree.update(max_worker=3),
        lambda tree: tree["provider"].pop("type"),
        lambda tree: tree["available_node_types"]["cpu_group"].update(min_worker=1),
        lambda tree: tree.update(idle_timeout_minutes="ten"),
    ],
)
def test_the_check_would_find_a_mistake(cluster, spoil):
    spoil(cluster)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster, SCHEMA)


def test_it_scales_two_groups_from_zero_and_keeps_work_off_the_head(cluster):
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert all(group["min_workers"] == 0 and group["max_workers"] > 0 for group in types.values())
    assert sum(group["max_workers"] for group in types.values()) <= cluster["max_workers"]
    assert [name for name, group in types.items() if group["resources"].get("GPU")] == ["gpu_group"]
    assert any("GPU" not in group["resources"] for group in types.values())


def test_ray_is_guarded_wherever_it_is_started(cluster):
    starts = [
        line for line in cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"] if "start" in line
    ]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in line for line in starts)
    assert any("--dashboard-host=127.0.0.1" in line for line in starts)


def test_nodes_install_what_the_autoscaler_asks_aws_with_at_versions_that_fit(cluster):
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (install,) = [line for line in cluster["setup_commands"] if "pip install" in line]
    extras = re.search(r"alphaearth\[([\w,]+)\]", install)[1].split(",")
    assert "aws" in extras and set(extras) <= set(project)
    pins = dict(line.split("==") for line in (PROJECT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {"boto3", "botocore", "s3transfer", "aiobotocore"} <= set(pins)
    assert pins["boto3"] == pins["botocore"]
