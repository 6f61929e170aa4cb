"""The opponent: its loss on a critic whose gradient is known, and the game it plays with a student."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gkd_bench.config.method_options import CriticOptions
from gkd_bench.distillation.adversary import Critic, Opponent
from gkd_bench.stages.opponent import OpponentStep

IMAGES = torch.zeros(2, 1, 4, 4)


class LinearCritic(nn.Module):
    """Slope times the sum of the foreground's probabilities; its gradient is the slope at every pixel."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def forward(self, images: Tensor, probabilities: Tensor) -> Tensor:
        return self.slope * probabilities[:, 1].sum((1, 2))


def opponent(penalty: float = 10.0, seed: int = 0, lr: float = 4e-4) -> Opponent:
    torch.manual_seed(seed)
    return Opponent(CriticOptions(gradient_penalty=penalty, channels=8, lr=lr), 1, 2)


def logits(probability: float, batch: int = 2) -> Tensor:
    """Logits of one foreground probability everywhere."""
    foreground = torch.full((batch, 1, 4, 4), math.log(probability / (1 - probability)))
    return torch.cat([torch.zeros_like(foreground), foreground], dim=1)


def linear_opponent(slope: float, penalty: float) -> Opponent:
    found = opponent(penalty)
    found.critic = LinearCritic(slope)  # type: ignore[assignment]
    return found.requires_grad_(False)


def test_the_students_term_is_minus_its_mean_score() -> None:
    term = linear_opponent(0.5, 0.0).student_term(IMAGES, logits(0.9), logits(0.25))
    assert term.item() == pytest.approx(-0.5 * 16 * 0.25)


@pytest.mark.parametrize("slope", [0.25, 0.5, -1.0])
def test_the_loss_is_the_gap_of_the_scores_plus_the_penalty_of_the_slope(slope: float) -> None:
    found = linear_opponent(slope, 10.0)
    found.student_term(IMAGES, logits(0.9), logits(0.25))
    gap = slope * 16 * (0.25 - 0.9)
    norm = abs(slope) * math.sqrt(16)  # 16 pixels of equal slope
    assert found.loss().item() == pytest.approx(gap + 10.0 * (norm - 1) ** 2, rel=1e-5)


def test_the_penalty_vanishes_for_a_critic_of_slope_one() -> None:
    found = linear_opponent(0.25, 10.0)
    found.student_term(IMAGES, logits(0.5), logits(0.5))
    assert found.loss().item() == pytest.approx(0.0, abs=1e-6)


def test_a_loss_before_any_prediction_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="student_term"):
        opponent().loss()


def test_the_students_term_reaches_the_student_and_not_the_critic() -> None:
    found, student = opponent(), logits(0.3).requires_grad_()
    found.student_term(IMAGES, logits(0.9), student).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert all(not p.requires_grad and p.grad is None for p in found.parameters())


def test_a_step_of_the_opponent_moves_it_leaves_the_student_alone_and_asks_for_no_gradient_afterwards() -> None:
    found, student = opponent(), logits(0.3).requires_grad_()
    before = [p.clone() for p in found.parameters()]
    step = OpponentStep(found)
    found.student_term(IMAGES, logits(0.9), student)
    step.step()
    assert any(not torch.equal(p, old) for p, old in zip(found.parameters(), before, strict=True))
    assert student.grad is None and not any(p.requires_grad for p in found.parameters())


def test_the_opponent_learns_to_score_the_teacher_higher() -> None:
    found = opponent(lr=2e-3)
    step, teacher, student = OpponentStep(found), logits(0.9), logits(0.3)
    for _ in range(40):
        found.student_term(IMAGES, teacher, student)
        step.step()
    real, fake = (found.critic(IMAGES, z.softmax(1)).mean().item() for z in (teacher, student))
    assert real > fake + 0.1


def test_a_student_that_learns_from_its_opponent_comes_closer_to_the_teacher() -> None:
    found, teacher = opponent(lr=2e-3), logits(0.9)
    student = logits(0.3).requires_grad_()
    step, optimiser = OpponentStep(found), torch.optim.Adam([student], lr=0.05)
    for _ in range(80):
        optimiser.zero_grad()
        found.student_term(IMAGES, teacher, student).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        step.step()
    start, end = (abs(z.softmax(1)[:, 1].mean().item() - 0.9) for z in (logits(0.3), student.detach()))
    assert end < 0.5 * start


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (33, 20)])
def test_a_critic_scores_images_of_any_size_one_number_each(size: tuple[int, int]) -> None:
    assert Critic(1, 3, 4)(torch.zeros(2, 1, *size), torch.ones(2, 3, *size)).shape == (2,)


def test_samples_of_a_batch_are_scored_apart() -> None:
    found, both = opponent(), torch.cat([logits(0.9, 1), logits(0.2, 1)]).softmax(1)
    together = found.critic(IMAGES, both)
    apart = torch.cat([found.critic(IMAGES[:1], both[i : i + 1]) for i in range(2)])
    assert torch.allclose(together, apart, atol=1e-6)
