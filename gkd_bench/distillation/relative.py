"""Squared error in units of the teacher's own size, so that a weight means the same for every teacher."""

from __future__ import annotations

from torch import Tensor

SMALLEST = 1e-12


def relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over samples of ||student - teacher||^2 / ||teacher||^2; 1 is what a student of zeros costs.

    The teacher is a constant, so this weighs samples and nothing else. A plain squared error grows with the square of the
    teacher's features, that of their Gram matrices with the fourth power: between two teachers that is a factor of
    1e5, and no one weight fits both.

    Args:
        student, teacher: (batch, ...) of the same shape.
    """
    theirs = teacher.detach().float().flatten(1)
    gap = (student.float().flatten(1) - theirs).square().mean(1)
    return (gap / theirs.square().mean(1).clamp_min(SMALLEST)).mean()
