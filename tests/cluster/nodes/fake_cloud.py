"""A Ray head with an autoscaler whose machines are Ray nodes on this one: Ray's fake multi-node provider.

Ray's own ``AutoscalingCluster`` cannot be used: it reads a file that the wheel lacks, and ends every Ray of the machine.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray

MARK = "GKD_FAKE_CLOUD"
PATIENCE = 240.0
UNUSED = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands",
    "worker_start_ray_commands", "cluster_synced_files", "rsync_exclude", "rsync_filter",
)  # fmt: skip
"""Fields of a cluster file that the autoscaler reads without a default."""


class FakeCloud:
    """A context manager. ``address`` of the head, ``environment`` of whoever joins it."""

    def __init__(self, folder: Path, node_types: dict[str, Any], idle_seconds: float) -> None:
        """Nothing runs before the ``with`` block.

        Args:
            folder: for a log; removed by nobody.
            node_types: name -> ``resources``, ``labels``, ``max_workers`` of worker machines, as in a cluster file.
            idle_seconds: until a machine without work is given back.
        """
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        self.address = f"{ray.util.get_node_ip_address()}:{port}"
        self._mark, self._port, self._folder = uuid.uuid4().hex, port, folder
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = {**os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0", MARK: self._mark}
        head = {"ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}}
        types = {name: {"node_config": {}, "min_workers": 0, **settings} for name, settings in node_types.items()}
        self._config = {
            "cluster_name": "fake",
            "max_workers": sum(settings["max_workers"] for settings in types.values()),
            "idle_timeout_minutes": idle_seconds / 60,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "use_node_id_as_ip": True,  # the machines share their address
                "disable_node_updaters": True,  # which would go to the machines over ssh
                "disable_launch_config_check": True,
            },
            "available_node_types": head | types,
            "head_node_type": "ray.head.default",
            "upscaling_speed": 1.0,
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "file_mounts_sync_continuously": False,
            **{name: [] for name in UNUSED},
        }

    def __enter__(self) -> Self:
        """Start the head; returns once its port is open."""
        file = self._folder / "autoscaling.json"
        file.write_text(json.dumps(self._config))
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={self._port}"]
        options = [
            "--num-cpus=1",
            "--object-store-memory=100000000",
            "--dashboard-host=127.0.0.1",
            "--dashboard-port=0",
        ]
        fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        fake |= {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}  # nodes that are left end that long after their head
        with (self._folder / "head.log").open("wb") as log:
            self._head = subprocess.Popen(
                [*command, *options, f"--autoscaling-config={file}"],
                env=self.environment | fake,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_for_port()
        except BaseException:
            self.close()
            raise
        return self

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while "Ray runtime started" not in self.log():
            if self._head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the head did not start:\n{self.log()}")
            time.sleep(0.2)

    def log(self) -> str:
        """What the head has said."""
        return (self._folder / "head.log").read_text(errors="replace")

    def processes(self) -> dict[int, str]:
        """Pid -> command line of everything that the head has started, by a variable that all of it inherits."""
        found, mark = {}, f"{MARK}={self._mark}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def close(self) -> None:
        """End the head, and whatever of the cluster lives a moment later."""
        self._head.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._head.wait(20)
        deadline = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._head.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """``close``."""
        self.close()
