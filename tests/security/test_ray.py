"""Ray listens on every address of a machine and runs what it is sent: only whoever has its token is heard."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gkd_bench.cluster.session import (
    RaySession,
    admits_strangers,
    keep_token_private,
    prepare_environment,
    refuse_open_ray,
)
from gkd_bench.config.schema import Compute
from gkd_bench.errors import ClusterError


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@contextmanager
def ray_that(lets_in: bool) -> Iterator[str]:
    """What answers like Ray's control service; its address."""
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    class Service(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
        def CheckAlive(self, request: Any, context: Any) -> Any:
            if not lets_in:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
            return gcs_service_pb2.CheckAliveReply()

    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("mode", ["disabled", "", "none"])
def test_local_ray_without_its_token_is_refused(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ClusterError, match=r"RAY_AUTH_MODE=.*listens on all addresses.*engine: inprocess"):
        prepare_environment(local=True)
    with pytest.raises(ClusterError, match="RAY_AUTH_MODE"), RaySession(Compute()):
        pytest.fail("Ray was started")


@pytest.mark.parametrize("lets_in", [True, False])
def test_a_ray_that_answers_without_a_token_is_recognised(lets_in: bool) -> None:
    with ray_that(lets_in) as address:
        assert admits_strangers(address) is lets_in


def test_what_cannot_be_asked_is_not_taken_for_open() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        assert not admits_strangers(f"127.0.0.1:{taken.getsockname()[1]}", seconds=1.0)


@pytest.mark.parametrize(
    ("address", "opened", "refused"),
    [
        ("10.0.0.1:6379", True, True),
        ("[fd00::1]:6379", True, True),
        ("head.example:6379", True, True),
        ("10.0.0.1:6379", False, False),
        ("127.0.0.1:6379", True, False),
        ("[::1]:6379", True, False),
        ("localhost:6379", True, False),
    ],
)
def test_open_clusters_are_joined_on_loopback_only(
    address: str, opened: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gkd_bench.cluster.session.admits_strangers", lambda address: opened)
    if refused:
        with pytest.raises(ClusterError, match=r"answers whoever reaches it, without a token.*RAY_AUTH_MODE=token"):
            refuse_open_ray(address)
    else:
        refuse_open_ray(address)


def test_token_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keep_token_private()
    finally:
        os.umask(before)
    path = tmp_path / ".ray" / "auth_token"
    token = path.read_text()
    assert len(token) == 64 and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)  # as Ray itself leaves it
    keep_token_private()
    assert path.read_text() == token and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in path.parent.iterdir()] == ["auth_token"]


def test_token_of_the_environment_needs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    keep_token_private()
    assert not (tmp_path / ".ray").exists()


ATTACK = """
    import json, os, subprocess, sys, urllib.request

    from gkd_bench.cluster.session import RaySession, admits_strangers
    from gkd_bench.config.schema import Compute

    def http(url):
        body = json.dumps({"entrypoint": "true"}).encode()
        asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=20).status
        except urllib.error.HTTPError as error:
            return error.code

    def listening():
        # (address in hexadecimal, port) of everything that listens here
        lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}").readlines()[1:]]
        return [(*line[1].split(":"),) for line in lines if line[3] == "0A"]

    import ray  # before its mode was set, as a notebook may do

    with RaySession(Compute(), num_cpus=2):
        gcs = ray.get_runtime_context().gcs_address
        node = next(node for node in ray.nodes() if node["Alive"])
        web = ray._private.worker._global_node.webui_url
        agent = ray._private.worker._global_node.dashboard_agent_listen_port
        port = int(web.rpartition(":")[2])
        stranger = (
            "import ray; ray.init(address=" + repr(gcs) + ", logging_level='ERROR'); print('joined')"
        )
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "HOME": "/nonexistent"}
        environment.pop("RAY_AUTH_TOKEN", None)
        run = subprocess.run([sys.executable, "-c", stranger], env=environment, capture_output=True, text=True, timeout=90)
        print(json.dumps({
            "address": gcs, "web": web, "strangers": admits_strangers(gcs),
            "dashboard": http(f"http://{web}/api/jobs/"),
            "agent": http(f"http://{node['NodeManagerAddress']}:{agent}/api/job_agent/jobs/") if agent > 0 else None,
            "dashboard binds": sorted({one[0] for one in listening() if int(one[1], 16) == port}),
            "joined": "joined" in run.stdout,
        }))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_nobody_without_the_token_is_heard_by_a_sweeps_own_ray(tmp_path: Path) -> None:
    """Job API, dashboard, control service, and a driver that just joins: what would run programs of strangers."""
    code = textwrap.dedent(ATTACK)
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["web"].startswith("127.0.0.1:") and found["dashboard binds"] == ["0100007F"]
    assert found["dashboard"] == 401
    assert found["agent"] in (401, None)  # none where another Ray has the port, which is a fixed one
    assert found["strangers"] is False and found["joined"] is False
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600
