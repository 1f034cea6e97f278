"""cluster.yaml through the code of Ray's launcher, up to instances on a mock AWS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

ROOT = Path(__file__).parents[2]
CIDR = "10.0.0.0/24"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """EC2 of a mock account; `ray up` keeps its key below HOME."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("AWS_ACCESS_KEY_ID", "mock")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "mock")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):  # of the test S3 server
            patch.delenv(name, raising=False)
        yield boto3.client("ec2", region_name="us-west-2")


@pytest.fixture(scope="module")
def config(aws: Any) -> dict[str, Any]:
    """What `ray up` makes of the file, filled in with what is there in the account."""
    vpc = aws.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = aws.create_subnet(VpcId=vpc, CidrBlock=CIDR)["Subnet"]["SubnetId"]
    group = aws.create_security_group(GroupName="foodseg", Description="itself", VpcId=vpc)["GroupId"]
    for role in ("foodseg-head", "foodseg-worker"):
        boto3.client("iam", region_name="us-west-2").create_instance_profile(InstanceProfileName=role)
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    for placeholder, real in (
        ("subnet-0123456789abcdef0", subnet),
        ("sg-0123456789abcdef0", group),
        ("ami-0123456789abcdef0", aws.describe_images()["Images"][0]["ImageId"]),
    ):
        assert text.count(placeholder) == 1
        text = text.replace(placeholder, real)
    prepared = prepare_config(yaml.safe_load(text))
    validate_config(prepared)
    bootstrapped: dict[str, Any] = AWSNodeProvider.bootstrap_config(prepared)
    return bootstrapped


def test_ray_opens_no_port_by_itself(aws: Any, config: dict[str, Any]) -> None:
    groups = {group["GroupName"]: group for group in aws.describe_security_groups()["SecurityGroups"]}
    assert set(groups) == {"default", "foodseg"}
    assert groups["foodseg"]["IpPermissions"] == []


def test_the_stated_cpus_and_gpus_are_those_of_the_instances(config: dict[str, Any]) -> None:
    stated = {name: kind.pop("resources") for name, kind in config["available_node_types"].items() if name != "head"}
    filled = AWSNodeProvider.fillout_available_node_types_resources(config)["available_node_types"]
    for name, resources in stated.items():
        assert resources == {key: filled[name]["resources"][key] for key in resources}
        config["available_node_types"][name]["resources"] = resources


@pytest.mark.parametrize(("name", "lifecycle"), [("head", None), ("cpu_worker", None), ("gpu_worker", "spot")])
def test_each_node_starts_without_a_public_address(config: dict[str, Any], name: str, lifecycle: str | None) -> None:
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-launch-config": "x", "ray-node-name": name}

    (instance,) = provider.create_node(config["available_node_types"][name]["node_config"], tags, 1).values()

    instance.reload()
    assert instance.public_ip_address is None and instance.private_ip_address.startswith("10.0.0.")
    assert [group["GroupName"] for group in instance.security_groups] == ["foodseg"]
    role = "foodseg-head" if name == "head" else "foodseg-worker"
    assert instance.iam_instance_profile["Arn"].endswith(f"instance-profile/{role}")
    assert instance.instance_lifecycle == lifecycle


def test_the_autoscaler_gives_each_type_its_image(config: dict[str, Any]) -> None:
    plain = {name: value for name, value in config.items() if name != "head_node"}
    scaling = AutoscalingConfig(plain, skip_content_hash=True)
    kinds = {
        name: scaling.get_docker_config(name)["image"].rpartition("-")[2] for name in plain["available_node_types"]
    }
    assert kinds == {"head": "cpu", "cpu_worker": "cpu", "gpu_worker": "gpu"}
    for name in ("cpu_worker", "gpu_worker"):
        commands = scaling.get_worker_setup_commands(name)
        assert any("whl/cpu" in command for command in commands) == (name == "cpu_worker")
        assert "foodseg-*.whl" in commands[-1]
