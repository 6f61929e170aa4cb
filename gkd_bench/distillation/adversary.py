"""Adversarial distillation: a critic that tells the teacher's predictions from the student's, with an optimiser of its own.

Wasserstein distance with a gradient penalty (Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017,
equation 3), conditioned on the image as in the holistic term of Liu et al., "Structured Knowledge Distillation for
Semantic Segmentation", CVPR 2019, equation 5.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gkd_bench.config.method_options import CriticOptions
from gkd_bench.distillation.divergence import full_precision


class Seen(NamedTuple):
    """The predictions of one step, constants: images and both networks' logits."""

    images: Tensor
    teacher: Tensor
    student: Tensor


class Critic(nn.Module):
    """Image and class probabilities -> one score per sample, higher for what looks like the teacher's.

    Strided convolutions without normalisation over the batch, which the gradient penalty forbids.
    """

    def __init__(self, in_channels: int, classes: int, channels: int) -> None:
        super().__init__()
        widths = [in_channels + classes, channels, 2 * channels, 4 * channels]
        blocks = [_block(i, o) for i, o in pairwise(widths)]
        self.body = nn.Sequential(*blocks, nn.Conv2d(widths[-1], 1, 1))

    def forward(self, images: Tensor, probabilities: Tensor) -> Tensor:
        """(batch, in_channels, h, w) and (batch, classes, h, w) -> (batch,)."""
        score: Tensor = self.body(torch.cat([images, probabilities], dim=1))
        return score.mean(dim=(1, 2, 3))


class Opponent(nn.Module):
    """A critic and what its own training step needs; the loop steps it after the student.

    Its parameters ask for no gradient outside that step, so that the student's optimiser never sees them.

    Args:
        options: learning rate, penalty and size.
        in_channels: channels of the images.
        classes: classes of the logits.
    """

    def __init__(self, options: CriticOptions, in_channels: int, classes: int) -> None:
        super().__init__()
        self.options = options
        self.critic = Critic(in_channels, classes, options.channels).requires_grad_(False)
        self._seen: Seen | None = None

    def student_term(self, images: Tensor, teacher: Tensor, student: Tensor) -> Tensor:
        """Minus the critic's mean score of the student's prediction; remembers the predictions for the critic's step.

        Args:
            images: (batch, channels, height, width).
            teacher, student: logits (batch, classes, height, width).
        """
        self._seen = Seen(images, teacher.detach(), student.detach())
        with full_precision(images):
            score: Tensor = self.critic(images, student.float().softmax(1))
        return -score.mean()

    def loss(self) -> Tensor:
        """The critic's own loss on the predictions of the last ``student_term``. Raises RuntimeError before any."""
        if self._seen is None:
            raise RuntimeError("the opponent has seen no prediction yet; call student_term first")
        images, real, fake = self._seen.images, *(logits.float().softmax(1) for logits in self._seen[1:])
        with full_precision(images):
            gap: Tensor = self.critic(images, fake).mean() - self.critic(images, real).mean()
            return gap + self.options.gradient_penalty * self._penalty(images, real, fake)

    def _penalty(self, images: Tensor, real: Tensor, fake: Tensor) -> Tensor:
        """Squared deviation from 1 of the gradient's norm between the two predictions."""
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = (share * real + (1 - share) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(images, between).sum(), between, create_graph=True)
        norms: Tensor = gradient.flatten(1).norm(dim=1)
        return ((norms - 1) ** 2).mean()


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 4, stride=2, padding=2), nn.LeakyReLU(0.1))
