"""The step of a method's opponent: its own loss, its own optimiser, the same weights on every rank."""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.distillation.adversary import Opponent
from gkd_bench.stages.collective import average_gradients

BETAS = (0.0, 0.9)  # of WGAN-GP (Gulrajani et al. 2017, algorithm 1)


class OpponentStep:
    """Trains an opponent beside the student. Its parameters ask for gradients during its own step only.

    Args:
        opponent: sees the predictions of the student's step that was just done.
    """

    def __init__(self, opponent: Opponent) -> None:
        self.opponent = opponent
        self.parameters = list(opponent.parameters())
        self.optimiser = torch.optim.Adam(self.parameters, lr=opponent.options.lr, betas=BETAS)

    def step(self) -> Tensor:
        """One optimiser step; returns the loss it was taken for, a scalar."""
        self.opponent.requires_grad_(True)
        try:
            loss = self.opponent.loss()
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        finally:
            self.opponent.requires_grad_(False)
        average_gradients(self.parameters)
        self.optimiser.step()
        return loss.detach()
