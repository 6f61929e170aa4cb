"""Gives the driver a handle on a Ray Train run. Import only inside an open Ray session.

``fit`` can only be waited for, also while a group waits for machines that never come. A thread that still waits when the
session ends makes Ray end the whole process, without a word; so the engine has to be able to end every run.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ControllerCallback

from gkd_bench.cluster.broker import find_broker


class Introduction(ControllerCallback):  # type: ignore[misc,unused-ignore]
    """Runs in the controller actor of a group's Ray Train run: tells the broker the actor's handle."""

    def __init__(self, broker: str, group: str) -> None:
        """``broker``: its actor name; ``group``: whose run this is."""
        self._broker, self._group = broker, group

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by Ray Train before it looks for workers."""
        find_broker(self._broker).introduce.remote(self._group, ray.get_runtime_context().current_actor)
