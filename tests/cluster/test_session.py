from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gkd_bench.cluster import session
from gkd_bench.cluster.session import (
    ENVIRONMENT,
    RaySession,
    check_listens,
    missing_resources,
    needed_resources,
    prepare_environment,
)
from gkd_bench.config.schema import Compute, Pool
from gkd_bench.errors import ClusterError


def test_needs_are_those_of_all_groups() -> None:
    compute = Compute(
        pools=(
            Pool(stages=("teacher", "baseline", "distill"), groups=2, workers=4, cpus=3, gpus=1.0),
            Pool(stages=("semantic", "alignment", "stress", "evaluate", "efficiency"), groups=1, workers=1, cpus=2),
        )
    )
    assert needed_resources(compute) == {"CPU": 26.0, "GPU": 8.0}


def test_missing_resources_are_all_named() -> None:
    lines = missing_resources({"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0})
    assert lines == ["CPU: 8 needed, 4 there", "GPU: 2 needed, 0 there"]
    assert missing_resources({"CPU": 8.0, "GPU": 0.0}, {"CPU": 8.0}) == []


def test_environment_is_set_without_overruling_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*ENVIRONMENT, "RAY_AUTH_MODE"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_DEDUP_LOGS", "0")
    prepare_environment(local=False)
    assert os.environ["RAY_DEDUP_LOGS"] == "0"
    assert os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] == "1"
    assert "RAY_AUTH_MODE" not in os.environ
    prepare_environment(local=True)
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_nothing_imports_ray_or_torch_before_a_session_is_opened() -> None:
    modules = "broker engine inprocess messages progress queue ray_engine search session tune_search worker"
    code = f"""
import sys
for name in {modules.split()!r}:
    __import__("gkd_bench.cluster." + name)
print([name for name in ("ray", "torch", "optuna", "mlflow", "numpy") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_ray_that_does_not_start_is_one_error_and_leaves_no_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str | None
) -> None:
    import ray

    def late(**options: object) -> None:
        raise Exception("The dashboard on port 8265 did not start in time.\n")

    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    monkeypatch.setattr(session.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "ray"))
    (tmp_path / "ray").mkdir()
    monkeypatch.setattr(ray, "init", late)
    monkeypatch.setattr(session, "check_listens", lambda *_: None)
    what = "started" if address is None else f"joined at {address}"
    with pytest.raises(
        ClusterError, match=f"^Ray cannot be {what}: The dashboard on port 8265 did not start in time.$"
    ):
        session.RaySession(Compute(address=address)).__enter__()
    assert not (tmp_path / "ray").exists()


def test_an_address_where_nothing_listens_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(session, "LISTEN_SECONDS", 0.2)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=f"^no Ray answers at {address} .*leave out RAY_ADDRESS"):
        RaySession(Compute()).__enter__()
    for of_ray in ("auto", "local", "ray://10.0.0.1:1"):
        check_listens(of_ray, 0.0)


def test_session_whose_ray_has_no_dashboard_is_refused_with_advice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepare_environment(local=True)
    import ray
    import ray.util.state

    asked: list[str] = []

    def no_answer(address: str, **options: object) -> None:
        asked.append(address)
        raise ConnectionError("connection refused")

    monkeypatch.setattr(session, "DASHBOARD_SECONDS", 0.6)  # asks twice
    monkeypatch.setattr(session.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    monkeypatch.setattr(ray.util.state, "list_actors", no_answer)
    with pytest.raises(ClusterError, match=r"refused.*ray\[default\].*include_dashboard=True"), RaySession(Compute()):
        pytest.fail("the session was opened")
    assert asked == ["10.0.0.1:6379"] * len(asked) and len(asked) >= 2
    assert not tmp_path.exists()
