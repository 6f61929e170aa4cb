"""cluster.yaml against a made-up AWS: what Ray asks it for, and which machine comes when spot machines are refused."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_launcher
import yaml

ROOT = Path(__file__).parents[2]
REGION = "eu-central-1"
GPU = {"CPU": 4, "GPU": 1}
ROLES = ("gkd-bench-head", "gkd-bench-worker")
HALF_AN_HOUR = 1800


class Cloud:
    """A made-up AWS with what the file's CHANGE lines name; ``spot``: has it spot machines; ``later``: seconds ahead."""

    def __init__(self) -> None:
        import boto3

        self.spot, self.later = True, 0.0
        self.ec2 = boto3.resource("ec2", region_name=REGION)
        roles = boto3.client("iam")
        for name in ROLES:
            roles.create_instance_profile(InstanceProfileName=name)
        (network,) = self.ec2.vpcs.all()
        self.group = self.ec2.create_security_group(GroupName="own", Description="own", VpcId=network.id)
        self.image = next(iter(self.ec2.images.limit(1))).id

    def config(self) -> ray_launcher.Config:
        text = (ROOT / "cluster.yaml").read_text()
        text = text.replace("sg-00000000000000000", self.group.id).replace("ami-00000000000000000", self.image)
        config: ray_launcher.Config = yaml.safe_load(text)
        return config

    def autoscaler(self) -> ray_launcher.Autoscaler:
        autoscaler = ray_launcher.Autoscaler(self.config(), lambda: time.time() + self.later)
        ask = autoscaler.ec2.create_instances

        def create_instances(**asked: Any) -> Any:
            if "InstanceMarketOptions" in asked and not self.spot:
                from botocore.exceptions import ClientError

                error = {"Code": "InsufficientInstanceCapacity", "Message": "no spot machines"}
                raise ClientError({"Error": error}, "RunInstances")
            return ask(**asked)

        autoscaler.ec2.create_instances = create_instances
        return autoscaler

    def machines(self) -> list[Any]:
        """Those that run."""
        return list(
            self.ec2.instances.filter(Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}])
        )


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    from moto import mock_aws

    made_up = mock_aws()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # `ray up` puts a key into ~/.ssh
        patch.setenv("AWS_ACCESS_KEY_ID", "made-up")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        made_up.start(reset=False)  # a reset would also empty the S3 service of other tests, which is the same moto
        try:
            yield Cloud()
        finally:
            made_up.stop(remove_data=False)


@pytest.fixture
def cloud(aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setenv("RAY_AUTOSCALER_UTILIZATION_SCORER", "spot_first.score")
    monkeypatch.syspath_prepend(ROOT / "docs" / "cluster")
    for machine in aws.machines():
        machine.terminate()
    aws.spot, aws.later = True, 0.0
    return aws


@pytest.mark.parametrize("name", ["head", "gpu_on_demand", "gpu_spot"])
def test_aws_gets_a_request_without_unknown_keys(name: str) -> None:
    import boto3
    from botocore.validate import ParamValidator

    session = boto3.Session(region_name=REGION)
    shape = session.client("ec2", aws_access_key_id="x", aws_secret_access_key="x").meta.service_model
    request = ray_launcher.read(ROOT / "cluster.yaml")["available_node_types"][name]["node_config"]
    validator = ParamValidator()
    asked = shape.operation_model("RunInstances").input_shape
    assert validator.validate({**request, "MinCount": 1, "MaxCount": 1}, asked).generate_report() == ""
    slip = {**request, "MinCount": 1, "MaxCount": 1, "MetadataOption": {}}
    assert "MetadataOption" in validator.validate(slip, asked).generate_report()


def test_machines_come_as_the_file_says(cloud: Cloud) -> None:
    autoscaler = cloud.autoscaler()
    autoscaler.start("gpu_spot")
    autoscaler.start("gpu_on_demand")
    machines = cloud.machines()
    assert [one.instance_lifecycle for one in machines] == ["spot", None]
    for one in machines:
        assert one.instance_type == "g5.xlarge" and one.image_id == cloud.image
        assert one.metadata_options["HttpTokens"] == "required"
        assert one.iam_instance_profile["Arn"].endswith("/gkd-bench-worker")
        assert [group["GroupId"] for group in one.security_groups] == [cloud.group.id]
        assert all(volume.encrypted and volume.size == 200 for volume in one.volumes.all())


def test_no_group_or_role_is_made_beside_those_of_the_file(cloud: Cloud) -> None:
    import boto3

    groups = {group.id for group in cloud.ec2.security_groups.all()}
    cloud.autoscaler()
    assert {group.id for group in cloud.ec2.security_groups.all()} == groups and not cloud.group.ip_permissions
    profiles = boto3.client("iam").list_instance_profiles()["InstanceProfiles"]
    assert sorted(profile["InstanceProfileName"] for profile in profiles) == sorted(ROLES)


def test_spot_machines_come_first_and_never_more_than_all_types_may_have(cloud: Cloud) -> None:
    autoscaler = cloud.autoscaler()
    assert autoscaler.machines([GPU, GPU]) == {"gpu_spot": 2}
    assert autoscaler.machines([GPU] * 9) == {"gpu_spot": cloud.config()["max_workers"]}


def test_on_demand_machines_come_when_spot_is_refused_and_spot_is_asked_for_again_later(cloud: Cloud) -> None:
    autoscaler = cloud.autoscaler()
    cloud.spot = False
    autoscaler.start("gpu_spot", 2)
    assert cloud.machines() == []
    assert autoscaler.machines([GPU, GPU]) == {"gpu_on_demand": 2}
    cloud.later = HALF_AN_HOUR + 60
    assert autoscaler.machines([GPU, GPU]) == {"gpu_spot": 2}


def test_without_the_file_beside_it_spot_would_be_asked_for_for_ever(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTOSCALER_UTILIZATION_SCORER")
    autoscaler = cloud.autoscaler()
    cloud.spot = False
    autoscaler.start("gpu_spot", 2)
    assert autoscaler.machines([GPU, GPU]) == {"gpu_spot": 2}


def test_version_2_of_the_autoscaler_does_not_notice_a_refusal() -> None:
    """When this fails, Ray has learnt it: give gpu_spot a ``priority``, and leave version 1 and spot_first.py."""
    assert not ray_launcher.refusal_lowers_v2("gpu_spot")


def test_the_start_command_names_the_score() -> None:
    (head,) = [one for one in ray_launcher.read(ROOT / "cluster.yaml")["head_start_ray_commands"] if "--head" in one]
    assert "RAY_enable_autoscaler_v2=0 " in head and "RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score " in head
    assert "PYTHONPATH=~/gkd_bench/docs/cluster " in head and (ROOT / "docs/cluster/spot_first.py").is_file()
