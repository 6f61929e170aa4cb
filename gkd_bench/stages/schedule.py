"""Learning rate and loss weights as pure functions of the step, so that a resumed run needs no state of them."""

from __future__ import annotations

import math

STEP_FACTORS = ((1 / 6, 1.0), (1 / 3, 0.1), (2 / 3, 0.01), (1.0, 1 / 600))
"""Share of the run -> factor: 3e-3, 3e-4, 3e-5, 5e-6 after 50, 100, 200 of 300 epochs (the authors' test script)."""


def learning_rate_factor(schedule: str, step: int, total: int) -> float:
    """Factor on the base learning rate at ``step`` (from 0) of ``total``; in (0, 1].

    ``cosine``: half a cosine down to 1 %. ``poly``: (1 - step / total)^0.9. ``step``: see ``STEP_FACTORS``.
    """
    share = step / total
    if schedule == "cosine":
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))
    if schedule == "poly":
        return float((1 - share) ** 0.9)
    if schedule == "step":
        return next(factor for end, factor in STEP_FACTORS if share < end)
    return 1.0


def warm_up(step: int, warm_up_steps: int) -> float:
    """Linear ramp from just above 0 to 1 over ``warm_up_steps``; 1 when there are none."""
    return 1.0 if step >= warm_up_steps else (step + 1) / (warm_up_steps + 1)
