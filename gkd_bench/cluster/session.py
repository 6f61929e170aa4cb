"""A Ray session for one sweep: the environment set before Ray is imported, a local Ray or a running cluster, checks.

No placement-group watchdog is needed: worker groups keep their placement groups until the session ends, and a group that
cannot start ends the session with an error. What Ray does need is its dashboard, for the clean-up of such groups.
"""

from __future__ import annotations

import ipaddress
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gkd_bench.cluster.broker import NAMESPACE
from gkd_bench.config.schema import Compute
from gkd_bench.errors import ClusterError, StoreError
from gkd_bench.store.artefacts import is_remote, open_store

OBJECT_STORE_BYTES = 256 * 2**20
DASHBOARD_SECONDS = 20.0
LISTEN_SECONDS = 10.0
RUN_FOLDER_DAYS = 7

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_worker_maximum_startup_concurrency": "16",  # below it Ray warns of thin processes that it starts itself
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "10",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
    "DO_NOT_TRACK": "1",
}
"""Set unless the user set them: quiet, no files and no calls that nobody asked for, Ctrl-C left to the sweep."""


def prepare_environment(local: bool) -> None:
    """Set ``ENVIRONMENT``, where unset; has to run before Ray is imported.

    A local Ray asks for its token, since Ray listens on all addresses of a machine; a running cluster decides for itself.

    Raises:
        ClusterError: a local Ray is to be started without its token.
    """
    settings = {**ENVIRONMENT, **({"RAY_AUTH_MODE": "token"} if local else {})}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if local and mode.lower() != "token":
        raise ClusterError(
            f"RAY_AUTH_MODE={mode}: a local Ray listens on all addresses of this machine, and without its token whoever reaches "
            "one of them can run programs as you; unset it, or set compute.engine: inprocess"
        )


def keep_token_private() -> None:
    """Make the file with Ray's token, unless there is one, for its owner alone: Ray makes it for everybody on the machine."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        try:
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
            with suppress(FileExistsError):  # of several sweeps that start at once, one makes it
                os.link(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def refuse_open_ray(address: str) -> None:
    """Raise ClusterError when the Ray at ``host:port`` can be reached from other machines and answers without a token."""
    host = address.rpartition(":")[0].strip("[]")
    if not _is_loopback(host) and admits_strangers(address):
        raise ClusterError(
            f"the Ray at {address} answers whoever reaches it, without a token, and runs what they send it; start it with "
            "RAY_AUTH_MODE=token on every machine (see cluster.yaml), and set that where the sweep is started"
        )


def check_listens(address: str, seconds: float) -> None:
    """Raise ClusterError when nothing listens at ``host:port``: Ray would try for twenty minutes. Other addresses are its own."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"no Ray answers at {address} ({error.strerror or error}); start it (see docs/cluster.md), or leave out RAY_ADDRESS "
                    "and compute.address to run on this machine alone"
                ) from error
        time.sleep(0.5)


def admits_strangers(address: str, seconds: float = 5.0) -> bool:
    """Whether the Ray at ``host:port`` answers somebody who has no token."""
    import grpc  # type: ignore[import-untyped]
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    messages: Any = gcs_service_pb2  # generated, without types
    stubs: Any = gcs_service_pb2_grpc
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            stubs.NodeInfoGcsServiceStub(channel).CheckAlive(messages.CheckAliveRequest(), timeout=seconds)
        except grpc.RpcError:  # refused, encrypted, or not to be reached from here
            return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def needed_resources(compute: Compute) -> dict[str, float]:
    """CPUs and GPUs of all groups. Trials and the broker take none: they only listen."""
    pools = compute.pools
    cpus = sum(pool.groups * pool.workers * pool.cpus for pool in pools)
    gpus = sum(pool.groups * pool.workers * pool.gpus for pool in pools)
    return {"CPU": float(cpus), "GPU": gpus}


def missing_resources(needed: Mapping[str, float], present: Mapping[str, float]) -> list[str]:
    """One line per resource of which there is too little."""
    return [
        f"{name}: {amount:g} needed, {present.get(name, 0.0):g} there"
        for name, amount in needed.items()
        if amount > present.get(name, 0.0) + 1e-9
    ]


def ensure_dashboard(seconds: float) -> None:
    """Check that Ray's state API answers. Without it the placement groups of stopped runs are never given back.

    Raises:
        ClusterError: it does not answer within ``seconds``.
    """
    import ray
    from ray.util.state import list_actors

    address = ray.get_runtime_context().gcs_address  # named, since other Rays may run on this machine
    deadline = time.monotonic() + seconds
    while True:
        try:
            list_actors(address=address, limit=1, timeout=5)
            return
        except Exception as error:
            if time.monotonic() > deadline:
                advice = "start Ray with its dashboard (pip install 'ray[default]', include_dashboard=True)"
                raise ClusterError(f"Ray's dashboard does not answer ({error}); {advice}") from error
            time.sleep(0.5)


class _RunFolder:
    """A folder of one run in the store. Removed at its end, with those of runs that died long ago."""

    def __init__(self, store: str | Path) -> None:
        self._blobs = open_store(store).blobs
        self._name = f"ray/{time.time():.0f}-{uuid.uuid4().hex[:8]}"
        self.address = f"{self._blobs.address}/{self._name}"

    def remove(self) -> None:
        before = time.time() - RUN_FOLDER_DAYS * 24 * 3600
        with suppress(StoreError, OSError):
            for name, _ in list(self._blobs.names("ray")):
                born = name.split("/")[1].partition("-")[0]
                if name.startswith(self._name) or (born.isdigit() and int(born) < before):
                    self._blobs.delete(name)
        if not is_remote(self._blobs.address):
            shutil.rmtree(self.address, ignore_errors=True)


class RaySession:
    """Joins a running Ray (``compute.address``, ``RAY_ADDRESS``) or starts one on this machine. A context manager."""

    def __init__(self, compute: Compute, num_cpus: int | None = None, store: str | Path | None = None) -> None:
        """Nothing is started before the ``with`` block.

        Args:
            compute: address and pools.
            num_cpus: CPUs that a local Ray counts with; none = the machine's, or as many as the pools ask for if more.
            store: address of the store, where Ray Train and Tune keep their own files when a cluster is joined, whose
                nodes must all see them. None, and a local Ray: a temporary folder.
        """
        self._compute, self._num_cpus = compute, num_cpus
        self._address = compute.address or os.environ.get("RAY_ADDRESS")
        self._shared = _RunFolder(store) if self._address and store else None
        self._started = False
        self.folder = ""

    def __enter__(self) -> Self:
        """Start or join.

        Raises:
            ClusterError: Ray does not start; a local one lacks what the pools need or its token; a Ray has no dashboard, or one
                that was joined lets in everybody.
        """
        prepare_environment(local=self._address is None)
        if self._address is None:
            keep_token_private()
        import ray

        self.folder = self._shared.address if self._shared else tempfile.mkdtemp(prefix="gkd_bench_ray_")
        try:
            if not ray.is_initialized():
                self._start()
            self._check()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        import ray
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")  # a Ray imported before the mode was set keeps the mode it found; Ray does this, too
        if self._address is not None:
            check_listens(self._address, LISTEN_SECONDS)
        terminate = signal.getsignal(signal.SIGTERM)
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "namespace": NAMESPACE}
        try:
            if self._address is not None:
                ray.init(address=self._address, **quiet)
            else:
                ray.init(**self._local_options(), **quiet)
        except Exception as error:  # also of a service of Ray's that is late, as on a machine busy with other work
            what = f"joined at {self._address}" if self._address else "started"
            raise ClusterError(f"Ray cannot be {what}: {str(error).strip()}") from error
        finally:  # Ray puts a handler of its own there, which ends the process without a word
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, terminate)
        self._started = True

    def _local_options(self) -> dict[str, Any]:
        needed = math.ceil(needed_resources(self._compute)["CPU"])
        return {
            "address": "local",
            "num_cpus": self._num_cpus or max(os.cpu_count() or 1, needed),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "object_store_memory": OBJECT_STORE_BYTES,
        }

    def _check(self) -> None:
        import ray

        if self._address is not None:
            refuse_open_ray(ray.get_runtime_context().gcs_address)
        ensure_dashboard(DASHBOARD_SECONDS)
        present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        lacking = missing_resources(needed_resources(self._compute), present)
        if lacking and self._address is None:  # a cluster may still grow: there the groups' time-out decides
            lines = "\n".join(f"  {line}" for line in lacking)
            raise ClusterError(f"this machine cannot hold the pools of compute.pools; make them smaller:\n{lines}")

    def close(self) -> None:
        """Leave Ray; end it when it was started here; remove the temporary folder."""
        import ray

        if self._started:
            ray.shutdown()
            self._started = False
        if self._shared:
            self._shared.remove()
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """``close``."""
        self.close()
