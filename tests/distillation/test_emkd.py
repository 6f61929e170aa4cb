"""EMKD: values against plain loops, classes that are absent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gkd_bench.distillation import emkd


def wave(*shape: int, step: float = 1.0) -> torch.Tensor:
    return torch.sin(step * torch.arange(1.0, 1.0 + int(np.prod(shape)))).view(shape)


def test_importance_matches_a_loop_over_samples() -> None:
    student, teacher = wave(2, 3, 2, 3), wave(2, 5, 2, 3, step=0.7)

    def attention(sample: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        picture = (sample.double().numpy() ** 4).mean(0).ravel()
        return np.asarray(picture / np.linalg.norm(picture))

    expected = np.mean([((attention(s) - attention(t)) ** 2).sum() for s, t in zip(student, teacher, strict=True)])
    assert emkd.importance(student, teacher, 4.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_importance_does_not_depend_on_the_scale_of_the_maps(scale: float) -> None:
    student, teacher = wave(1, 3, 2, 2), wave(1, 4, 2, 2, step=0.3)
    assert emkd.importance(student * scale, teacher, 4.0).item() == pytest.approx(
        emkd.importance(student, teacher, 4.0).item(), rel=1e-4
    )


def test_region_affinity_matches_a_loop_over_pairs_of_classes() -> None:
    student, teacher = wave(2, 3, 2, 2), wave(2, 4, 2, 2, step=0.7)
    shares = torch.softmax(wave(2, 3, 2, 2, step=2.0), dim=1)

    def contrast(maps: torch.Tensor, sample: int, first: int, second: int) -> float:
        vectors = maps[sample].double().flatten(1).numpy()
        one, other = (
            np.average(vectors, axis=1, weights=shares[sample, c].flatten().double().numpy()) for c in (first, second)
        )
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    pairs = [(n, a, b) for n in range(2) for a in range(3) for b in range(a + 1, 3)]
    expected = np.mean([(contrast(student, *pair) - contrast(teacher, *pair)) ** 2 for pair in pairs])
    assert emkd.region_affinity(student, teacher, shares).item() == pytest.approx(expected, rel=1e-4)


def test_samples_without_one_of_the_classes_have_no_say() -> None:
    student, teacher = wave(2, 3, 2, 2), wave(2, 3, 2, 2, step=0.7)
    shares = torch.zeros(2, 2, 2, 2)
    shares[0, 0], shares[1, 0, 0], shares[1, 1, 1] = 1.0, 1.0, 1.0
    both = emkd.region_affinity(student, teacher, shares)
    assert both.item() == pytest.approx(emkd.region_affinity(student[1:], teacher[1:], shares[1:]).item(), rel=1e-6)
    alone = emkd.region_affinity(student[:1].requires_grad_(), teacher[:1], shares[:1])
    assert alone.item() == 0.0 and alone.requires_grad


def test_both_map_terms_are_zero_for_equal_maps() -> None:
    maps, shares = wave(1, 3, 2, 2), torch.full((1, 2, 2, 2), 0.5)
    assert emkd.importance(maps, maps, 4.0).item() == emkd.region_affinity(maps, maps, shares).item() == 0.0
