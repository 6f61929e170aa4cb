from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster.yaml"

# Ray offers no public way to check a cluster file; its private one is kept in a process of its own.
VALIDATE = """
import json, sys
from ray.autoscaler._private.util import prepare_config, validate_config
config = prepare_config(json.load(sys.stdin))
validate_config(config)
"""


def validate(config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", VALIDATE],
        input=json.dumps(config),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text())


def test_ray_accepts_the_cluster_file(config: dict[str, Any]) -> None:
    done = validate(config)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "mistake", [{"max_worker": 3}, {"available_node_types": {"head": {"resources": {"CPU": "two"}}}}]
)
def test_ray_refuses_a_mistake_in_it(config: dict[str, Any], mistake: dict[str, Any]) -> None:
    assert validate(config | mistake).returncode != 0


def test_every_start_uses_the_token_and_the_dashboard_stays_on_loopback(config: dict[str, Any]) -> None:
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    starts = [command for command in commands if "ray start" in command]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host 127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "0.0.0.0" not in CLUSTER.read_text()


def test_commands_on_the_head_name_the_running_ray() -> None:
    """Without it, a command that Ray executes there would start a second, single-machine Ray."""
    commands = [line for line in CLUSTER.read_text().splitlines() if "ray exec cluster.yaml" in line]
    assert any("gkd-bench sweep" in line for line in commands)
    assert all("RAY_ADDRESS=auto gkd-bench" in line for line in commands)


def test_machines_run_in_a_security_group_of_the_user(config: dict[str, Any]) -> None:
    """Without one, Ray makes a group that lets the whole world try ssh."""
    for node_type in config["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"]


def test_gpu_workers_scale_from_zero(config: dict[str, Any]) -> None:
    worker = config["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= config["max_workers"]
    assert worker["resources"]["GPU"] >= 1
    assert "GPU" not in config["available_node_types"]["head"]["resources"]


def test_versions_of_ray_agree(config: dict[str, Any]) -> None:
    versions = set(re.findall(r"(?:ray:|\]==)(\d+\.\d+\.\d+)", CLUSTER.read_text()))
    assert len(versions) == 1
    low, high = re.search(r'"ray\[.*\]>=(\d+)\.(\d+),<', (ROOT / "pyproject.toml").read_text()).groups(), versions.pop()
    assert tuple(map(int, high.split(".")[:2])) >= tuple(map(int, low))
