"""Which machine Ray's autoscaler (version 1) starts next: a spot machine, or one on demand for a while after spot was refused.

Ray calls ``score`` for every node type and starts the one with the highest score. It takes the function from the environment:
``RAY_AUTOSCALER_UTILIZATION_SCORER=spot_first.score``. A refusal is remembered for ``AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S``
seconds, 1800 unless set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

if TYPE_CHECKING:
    from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary


def score(
    node_resources: dict[str, float],
    demands: list[dict[str, float]],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple[Any, ...] | None:
    """Ray's own score of how well the demands fill a machine, then whether there are such machines, then spot before others.

    Args:
        node_resources: what a machine of the type has.
        demands: what waits for a machine.
        node_type: name of the type; spot types have ``spot`` in it.
        node_availability_summary: how the last attempt to start a machine of each type ended.

    Returns:
        The score, or none when the type fits no demand.
    """
    fit = _default_utilization_scorer(
        node_resources, demands, node_type, node_availability_summary=node_availability_summary
    )
    if fit is None:
        return None
    last = node_availability_summary.node_availabilities.get(node_type)
    return (*fit, last is None or last.is_available, "spot" in node_type)
