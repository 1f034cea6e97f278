"""cluster.yaml: what Ray's launcher and EC2 accept, the pinned versions, and no way in from outside."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
CLUSTER: dict[str, Any] = yaml.safe_load(TEXT)
TYPES: dict[str, dict[str, Any]] = CLUSTER["available_node_types"]
WORKERS = [name for name in TYPES if name != CLUSTER["head_node_type"]]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def pinned(package: str) -> str:
    """The version of a package that pyproject.toml demands."""
    (version,) = re.findall(rf'"{package}(?:\[[^\]]*\])?==([\d.]+)"', PROJECT)
    return str(version)


def image_of(name: str) -> str:
    """The image of a node type: its own, or the one for all."""
    return TYPES[name].get("docker", {}).get("worker_image", CLUSTER["docker"]["image"])


def test_ray_accepts_it() -> None:
    ray = importlib.util.find_spec("ray")  # finds it without importing it
    assert ray is not None and ray.submodule_search_locations
    schema = json.loads(Path(ray.submodule_search_locations[0], "autoscaler", "ray-schema.json").read_text())
    jsonschema.validate(CLUSTER, schema)
    assert CLUSTER["head_node_type"] in TYPES
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**CLUSTER, "worker_nodes": {}}, schema)


@pytest.mark.parametrize("name", TYPES)
def test_ec2_accepts_each_node(name: str) -> None:
    asked = {**TYPES[name]["node_config"], "MinCount": 1, "MaxCount": 1}
    asked["SubnetId"] = asked.pop("SubnetIds")[0]  # Ray's own key: it tries one subnet after the other
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = ParamValidator().validate(asked, shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("name", TYPES)
def test_the_image_has_the_pinned_ray_and_a_supported_python(name: str) -> None:
    found = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-(cpu|gpu)", image_of(name))
    assert found is not None, image_of(name)
    version, major, minor, kind = found.groups()
    assert version == pinned("ray")
    (supported,) = re.findall(r'requires-python = "([^"]+)"', PROJECT)
    assert SpecifierSet(supported).contains(f"{major}.{minor}")
    assert (kind == "gpu") == ("GPU" in TYPES[name]["resources"])


def test_all_nodes_have_one_python_and_the_pinned_torch() -> None:
    assert len({image_of(name).rpartition("-")[0] for name in TYPES}) == 1
    assert set(re.findall(r"\btorch==([\d.]+)", TEXT)) == {pinned("torch")}
    assert set(re.findall(r"\btorchvision==([\d.]+)", TEXT)) == {pinned("torchvision")}


def test_every_node_installs_the_wheel_and_has_shared_memory() -> None:
    for name in TYPES:
        if name in WORKERS:
            commands = TYPES[name].get("worker_setup_commands", CLUSTER["worker_setup_commands"])
            options = TYPES[name]["docker"]["worker_run_options"]
        else:
            commands, options = CLUSTER["head_setup_commands"], CLUSTER["docker"]["head_run_options"]
        assert any("foodseg-*.whl" in command for command in commands), name
        assert any(option.startswith("--shm-size=") for option in options), name
    assert "dist" in CLUSTER["file_mounts"].values()


def test_gpu_workers_are_spot_and_start_from_zero() -> None:
    gpus = [TYPES[name] for name in WORKERS if "GPU" in TYPES[name]["resources"]]
    assert gpus
    for node in gpus:
        assert node["min_workers"] == 0 and node["max_workers"] >= 2
        assert node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert "--gpus=all" in node["docker"]["worker_run_options"]


def test_nothing_runs_on_the_head_and_it_is_not_on_spot() -> None:
    head = TYPES[CLUSTER["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]


def test_the_number_of_nodes_is_bounded() -> None:
    assert CLUSTER["max_workers"] == sum(TYPES[name]["max_workers"] for name in WORKERS)


def test_there_is_no_way_in_from_outside() -> None:
    assert CLUSTER["provider"]["use_internal_ips"] is True
    assert "0.0.0.0" not in TEXT and "::/0" not in TEXT
    assert "security_group" not in CLUSTER["provider"]
    for name, node in TYPES.items():
        # a group that Ray makes by itself opens port 22 to the world
        assert node["node_config"]["SecurityGroupIds"], name
        assert node["node_config"]["SubnetIds"], name
        assert "NetworkInterfaces" not in node["node_config"], name
    assert not any("dashboard-host" in command for command in CLUSTER["head_start_ray_commands"])
    assert "AWS-StartSSHSession" in CLUSTER["auth"]["ssh_proxy_command"]
    assert CLUSTER["auth"]["ssh_proxy_use_node_id"] is True


def test_the_token_is_demanded_and_brought() -> None:
    assert "-e RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    assert CLUSTER["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_s3_is_reached_by_role_and_no_key_is_in_the_file() -> None:
    profiles = {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in TYPES.items()}
    head = profiles.pop(CLUSTER["head_node_type"])
    assert head not in profiles.values()  # only the head may start nodes
    assert not re.search(r"AKIA|aws_credentials|ACCESS_KEY|SECRET", TEXT)
    for node in TYPES.values():
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_every_place_names_the_same_region() -> None:
    region = CLUSTER["provider"]["region"]
    assert set(re.findall(r"\b[a-z]{2}-(?:north|south|east|west|central)[a-z]*-\d", TEXT)) == {region}
    assert f"-e AWS_REGION={region}" in CLUSTER["docker"]["run_options"]


@pytest.mark.parametrize("command", ["ray up cluster.yaml", "ray dashboard cluster.yaml", "ray job submit"])
def test_the_readme_says_how_as_the_file_does(command: str) -> None:
    assert command in TEXT.partition("\nmetadata:")[0]
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
