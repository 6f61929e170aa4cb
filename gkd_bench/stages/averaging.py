"""Stochastic weight averaging: the mean of the weights along the last part of a training, and batch statistics for it.

Source: P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018; an average after
every step rather than every epoch as in J. Cha et al., "SWAD: Domain Generalization by Seeking Flat Minima", NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from gkd_bench.errors import StageError


class WeightAverage:
    """The arithmetic mean of a module's parameters after every step from ``start_step`` on.

    Buffers are not averaged: running statistics of the averaged weights are nobody's average, see
    :func:`refresh_statistics`.

    Args:
        module: the module in training; it is read, never written.
        start_step: first step, counted from 0, whose weights are part of the mean.
    """

    def __init__(self, module: nn.Module, start_step: int) -> None:
        self.module, self.start_step = module, start_step
        self._average = AveragedModel(module)

    def update(self, step: int) -> None:
        """Take in the weights as they are after ``step``."""
        if step >= self.start_step:
            self._average.update_parameters(self.module)

    def state(self) -> dict[str, Tensor]:
        """The average and how many steps are in it, for a checkpoint; a copy."""
        return {name: tensor.detach().clone() for name, tensor in self._average.state_dict().items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from what :meth:`state` gave."""
        self._average.load_state_dict(state)

    def weights(self) -> dict[str, Tensor]:
        """Parameter name of the module -> its mean; buffers are left out.

        Raises:
            StageError: no step has been averaged.
        """
        if not self._average.n_averaged:
            raise StageError(
                f"no weights to average before step {self.start_step}; train for more epochs or leave swa out"
            )
        return {name: parameter.detach().clone() for name, parameter in self._average.module.named_parameters()}


def refresh_statistics(network: nn.Module, draw: Callable[[int], Tensor], steps: int) -> None:
    """Estimate the batch statistics of ``network`` anew on training tiles; leaves it in eval mode.

    With several ranks the statistics are those of the global batches and equal on all ranks.

    Args:
        network: with the averaged weights. Without batch normalisation it stays as it is.
        draw: step -> images (rows, 1, height, width) of this rank; the same number at every step.
        steps: batches to draw, from step 0 on.
    """
    if batch_norms(network):
        estimate_statistics(network, map(draw, range(steps)))
    network.eval()


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace the running statistics of all batch norms by the mean of those of ``batches``; leaves ``network`` in eval mode.

    Every image counts the same. Only the norms are in training mode meanwhile, not dropout: statistics are wanted of what
    the network computes when it is deployed. (``torch.optim.swa_utils.update_bn`` trains everything, and takes the momentum
    away, which our norm's synchronised pass needs.)

    Returns:
        How many images were seen.
    """
    norms = batch_norms(network)
    momenta, seen = [norm.momentum for norm in norms], 0
    network.eval()
    for norm in norms:
        norm.train()
    try:
        for images in batches:
            seen += len(images)
            for norm in norms:
                norm.momentum = len(images) / seen  # a cumulative average; the first batch replaces what was there
            network(images)
    finally:
        network.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return seen


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The layers of ``network`` that keep running statistics of batches."""
    return [part for part in network.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
