"""What tests of the cluster files ask of Ray's launcher and autoscaler. All of it is private API of Ray, in this file alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import yaml

Config = dict[str, Any]
Bundle = Mapping[str, float]


def prepared(config: Config) -> Config:
    """A cluster file as `ray up` completes it. Raises what `ray up` would: jsonschema.ValidationError, ValueError, ClickException."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    complete: Config = prepare_config(copy.deepcopy(config))
    validate_config(complete)
    return complete


def read(file: Path) -> Config:
    config: Config = yaml.safe_load(file.read_text())
    return config


def start_options() -> set[str]:
    """Every option of `ray start`."""
    from ray.scripts.scripts import start

    return {option for parameter in start.params for option in [*parameter.opts, *parameter.secondary_opts]}


def commands() -> set[str]:
    """Every command of `ray`."""
    from ray.scripts.scripts import cli

    return set(cli.commands)


def of_raycluster(manifest: Config) -> Config:
    """What the autoscaler in the head pod makes of a RayCluster. Validates it with Ray's schema."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    config: Config = _derive_autoscaling_config_from_ray_cr(copy.deepcopy(manifest))
    return config


def machines_of_v2(config: Config, demands: Sequence[Bundle]) -> dict[str, int]:
    """Node type -> how many the autoscaler, version 2, starts for demands in an empty cluster."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.core.generated.autoscaler_pb2 import ResourceRequest, ResourceRequestByCount

    parsed = AutoscalingConfig(copy.deepcopy(config), skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=parsed.get_node_type_configs(),
        max_num_nodes=parsed.get_max_num_nodes(),
        resource_requests=[
            ResourceRequestByCount(request=ResourceRequest(resources_bundle=dict(demand)), count=1)
            for demand in demands
        ],
    )
    reply = ResourceDemandScheduler(MagicMock()).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}


def refusal_lowers_v2(node_type: str) -> bool:
    """Whether the autoscaler, version 2, avoids a node type after the cloud has refused to start a machine of it."""
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    refused = InstanceUpdateEvent(
        instance_id="one", instance_type=node_type, new_instance_status=Instance.ALLOCATION_FAILED
    )
    monitor.notify([refused])
    return node_type in monitor.get_recoverable_resource_availabilities()


class Autoscaler:
    """The parts of the autoscaler, version 1, that choose and start machines, on AWS as it is there."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
        from ray.autoscaler._private.event_summarizer import EventSummarizer
        from ray.autoscaler._private.node_launcher import BaseNodeLauncher
        from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
        from ray.autoscaler._private.resource_demand_scheduler import ResourceDemandScheduler
        from ray.autoscaler._private.util import ConcurrentCounter

        self.config: Config = bootstrap_aws(prepared(config))
        types = self.config["available_node_types"]
        provider = AWSNodeProvider(self.config["provider"], self.config["cluster_name"])
        self.ec2 = provider.ec2_fail_fast
        self._pending = ConcurrentCounter()
        self._tracker = NodeProviderAvailabilityTracker(timer=clock)
        self._launcher = BaseNodeLauncher(
            provider, self._pending, EventSummarizer(), self._tracker, prom_metrics=MagicMock(), node_types=types
        )
        self._scheduler = ResourceDemandScheduler(
            provider, types, self.config["max_workers"], self.config["head_node_type"], 1.0
        )

    def machines(self, demands: Sequence[Bundle]) -> dict[str, int]:
        """Node type -> how many workers it would start for demands in an empty cluster."""
        wanted, _ = self._scheduler.get_nodes_to_launch(
            [], {}, [dict(demand) for demand in demands], {}, [], {}, [], self._tracker.summary()
        )
        return {name: count for name, count in wanted.items() if name != self.config["head_node_type"]}

    def start(self, node_type: str, count: int = 1) -> None:
        """Start machines; a refusal of AWS is noted, not raised."""
        self._pending.inc(node_type, count)
        self._launcher.launch_node(self.config, count, node_type)
