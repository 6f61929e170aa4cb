"""DICD, Domain-Invariant Cross Distillation: teacher and student exchange headers and decode each other's features.

Wiring read off the paper's overview figure, divergence a reconstruction (Qi et al., arXiv 2207.12995):

* q1 = decode_teacher(TAN header(v_student), teacher's skips): trains the student's encoder;
* q2 = decode_student(SAN header(v_teacher), student's skips): trains the student's decoder;
* both are pulled to the teacher's own prediction: L_cross = D(p_teacher, q1) + D(p_teacher, q2).
"""

from __future__ import annotations

import torch
from torch import Tensor

from gkd_bench.distillation.base import Aligned, StudentOutput
from gkd_bench.distillation.divergence import DIVERGENCES
from gkd_bench.networks.base import Features, SegmentationNetwork, Skips


def drop_skips(skips: Skips, probability: float) -> Skips:
    """Whole skip maps of random samples set to zero, so that a decoder cannot ignore the rebuilt bottleneck.

    Integer maps (pooling indices) are positions, not content, and stay.
    """
    if probability == 0.0:
        return skips
    samples = skips.maps[0].shape[0] if skips.maps else 0
    keep = [torch.rand(samples, device=m.device) >= probability for m in skips.maps]
    maps = [m * k.view(-1, 1, 1, 1) if m.is_floating_point() else m for m, k in zip(skips.maps, keep, strict=True)]
    return Skips(tuple(maps), skips.size)


def spatial_size(maps: Tensor) -> tuple[int, int]:
    """(height, width) of (batch, channels, height, width)."""
    return int(maps.shape[-2]), int(maps.shape[-1])


def teacher_decodes_student(
    teacher: SegmentationNetwork, tan: Aligned, vectors: Tensor, features: Features, skip_drop: float = 0.0
) -> Tensor:
    """q1 as logits: the student's ``vectors`` (batch, dim) through TAN's header and the teacher's decoder."""
    rebuilt = tan.rebuild(vectors, spatial_size(features.bottleneck))
    return teacher.decode(rebuilt, drop_skips(features.skips, skip_drop)).logits


def student_decodes_teacher(student: SegmentationNetwork, san: Aligned, vectors: Tensor, own: StudentOutput) -> Tensor:
    """q2 as logits: the teacher's constant ``vectors`` (batch, dim) through SAN's header and the student's decoder."""
    rebuilt = san.rebuild(vectors.detach(), spatial_size(own.features.bottleneck))
    return student.decode(rebuilt, own.features.skips).logits


def cross_loss(target: Tensor, q1: Tensor, q2: Tensor, divergence: str = "kl", temperature: float = 1.0) -> Tensor:
    """L_cross of logits (batch, classes, height, width); ``target`` is the teacher's own prediction, a constant."""
    measure = DIVERGENCES[divergence]
    return measure(target.detach(), q1, temperature) + measure(target.detach(), q2, temperature)
