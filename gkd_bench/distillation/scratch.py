"""Student alone: cross-entropy continuation for as many steps as a distilled student gets (the fair control)."""

from __future__ import annotations

from torch import Tensor

from gkd_bench.distillation.base import Batch, Method, StudentOutput
from gkd_bench.networks.base import SegmentationNetwork


class Scratch(Method):
    """No term beside the supervised loss: what longer training alone would have given."""

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """No terms."""
        return {}
