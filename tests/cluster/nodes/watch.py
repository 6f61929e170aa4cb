"""Runs on the head beside a sweep: prints the cluster's state, one JSON line whenever it changes, until the sweep has ended.

A line: ``time``; ``nodes``, address -> alive; ``workers``, addresses of the nodes that hold a worker process of Ray Train;
``groups``, name -> starts; ``running``, group -> stage, epoch, steps done.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import ray
from ray.util.state import list_actors

from gkd_bench.cluster.broker import NAMESPACE, find_broker

POLL_SECONDS = 0.3


def main(patience: float) -> None:
    """``patience``: seconds to wait for a sweep."""
    ray.init(address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
    last: dict[str, Any] = {}
    broker, deadline = "", time.monotonic() + patience
    while broker or time.monotonic() < deadline:
        broker = broker or next(iter(name for name in ray.util.list_named_actors() if name.startswith("broker-")), "")
        try:
            state = cluster() | (sweep(broker) if broker else {"groups": {}, "running": {}})
        except (ray.exceptions.RayActorError, ValueError):
            return  # the broker went with its sweep
        if state != last:
            print(json.dumps({"time": time.time(), **state}), flush=True)
            last = state
        time.sleep(POLL_SECONDS)


def cluster() -> dict[str, Any]:
    """What Ray knows of its nodes and of Ray Train's workers."""
    nodes = ray.nodes()
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
    filters = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    held = sorted(addresses[actor.node_id] for actor in list_actors(filters=filters))
    return {"nodes": {node["NodeManagerAddress"]: node["Alive"] for node in nodes}, "workers": held}


def sweep(broker: str) -> dict[str, Any]:
    """What the sweep's broker knows of its groups."""
    snapshot = ray.get(find_broker(broker).snapshot.remote())
    running = {stage.group: [stage.name, stage.epoch, stage.done] for stage in snapshot.running}
    return {"groups": {group.name: group.starts for group in snapshot.groups}, "running": running}


if __name__ == "__main__":
    main(float(sys.argv[1]))
