"""CIRKD, "Cross-Image Relational Knowledge Distillation for Semantic Segmentation".

C. Yang, H. Zhou, Z. An, X. Jiang, Y. Xu, Q. Zhang, CVPR 2022, arXiv 2204.06986; formulas as in the authors'
code. With pixel embeddings on the unit sphere (here: positions of the deep map) and the softmax of similarities over T = 0.1:

* ``pixel``: KL(softmax(z_t) || softmax(z_s)) per pixel;
* ``batch``: for all pairs of images i, j of the batch, KL of the rows of F_i F_j^T, teacher against student;
* ``memory_pixel``, ``memory_region``: KL of the similarities of every pixel with a bank of the teacher's pixel embeddings,
  and with one of its region embeddings (class means of an image), kept per class over past steps.

All are means over images, pairs and pixels. The student's embedding reaches the teacher's channels by one linear
projection instead of the paper's two-layer head, so that equal networks have nothing to learn. Positions carry class
shares instead of labels: a bank's pixels are drawn in proportion to them.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from gkd_bench.config.method_options import CirkdOptions
from gkd_bench.distillation.base import Batch, Guides, Method, StudentOutput
from gkd_bench.distillation.bridge import Bridge, Maps, channels, labels_at, maps_of, teacher_maps
from gkd_bench.distillation.divergence import full_precision, kl_divergence
from gkd_bench.distillation.relations import (
    SHORTEST,
    class_means,
    cosines,
    on_common_grid,
    relation_divergence,
    unit_positions,
)
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.networks.norm import world_size

PIXELS_PER_IMAGE = 4  # new entries of a class's pixel bank; small beside the bank, so that it spans many steps


class CrossImageRelations(Method):
    """Terms ``pixel``, ``batch``, ``memory_pixel`` and ``memory_region``."""

    def __init__(self, options: CirkdOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__(options, guides, student)
        self.options = options
        remembers = options.memory_pixel or options.memory_region
        self.memory = Memory(options, student, self.teacher) if remembers else None

    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms that are switched on, on the anchors; the banks take in the teacher's embeddings first."""
        theirs, mine = teacher_maps(self.teacher, batch.images), maps_of(*own)
        terms = self.memory(mine, theirs, batch.labels) if self.memory is not None else {}
        if self.options.pixel:
            terms["pixel"] = kl_divergence(theirs.logits, mine.logits)
        if self.options.batch:
            terms["batch"] = batch_relations(mine.deep, theirs.deep, self.options.temperature)
        return terms


def batch_relations(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the similarities of every position with all positions of every image.

    Args:
        student, teacher: (batch, channels of their own, h, w).
        temperature: of the softmax over the positions of one image.
    """
    grids = on_common_grid(student, teacher)
    with full_precision(student):
        mine, theirs = (unit_positions(grid) for grid in grids)
        target, rows = (torch.einsum("ipc,jqc->ipjq", units, units) for units in (theirs, mine))
        return relation_divergence(target, rows, temperature)


class Bank(nn.Module):
    """The latest ``size`` vectors of every class, a ring per class; the same on all ranks.

    Attributes:
        entries: (classes, size, dim).
        written: (classes,) int64, vectors ever put in.
    """

    entries: Tensor
    written: Tensor

    def __init__(self, classes: int, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("entries", torch.zeros(classes, size, dim))
        self.register_buffer("written", torch.zeros(classes, dtype=torch.int64))

    @torch.no_grad()
    def put(self, classes: Tensor, vectors: Tensor) -> None:
        """Take in vectors (n, dim) of these classes (n,), those of all ranks; the oldest of a full ring go."""
        classes, vectors = gathered(classes), gathered(vectors)
        size = self.entries.shape[1]
        for number in range(len(self.written)):
            new = vectors[classes == number]
            slots = (self.written[number] + torch.arange(len(new), device=new.device)) % size
            self.entries[number, slots[-size:]] = new[-size:].to(self.entries.dtype)
            self.written[number] += len(new)

    def stored(self) -> Tensor:
        """(n, dim) all vectors, by class."""
        places = torch.arange(self.entries.shape[1], device=self.written.device)
        return self.entries[places < self.written[:, None]]


class Memory(nn.Module):
    """Both banks, and the projection that makes the student's embeddings comparable with them."""

    def __init__(self, options: CirkdOptions, student: SegmentationNetwork, teacher: SegmentationNetwork) -> None:
        super().__init__()
        self.temperature, self.classes = options.temperature, student.classes
        self.bridge = Bridge(student, teacher, ("deep",))
        (dim,) = channels(teacher, ("deep",))
        wanted = {"memory_pixel": options.memory_pixel, "memory_region": options.memory_region}
        banks = {name: Bank(self.classes, options.bank, dim) for name, weight in wanted.items() if weight}
        self.banks = nn.ModuleDict(banks)

    def forward(self, mine: Maps, theirs: Maps, labels: Tensor) -> dict[str, Tensor]:
        """Named terms of a batch; labels (batch, height, width)."""
        ((student, teacher),) = self.bridge(mine, theirs)
        student, teacher = on_common_grid(student, teacher)
        with full_precision(student):
            units, target = unit_positions(student).flatten(0, 1), unit_positions(teacher)
            self._remember(target, labels_at(labels, (teacher.shape[-2], teacher.shape[-1]), self.classes))
            target = target.flatten(0, 1)
            stored = {name: bank.stored() for name, bank in self.banks.items() if isinstance(bank, Bank)}
            rows = {name: (cosines(target, kept), cosines(units, kept)) for name, kept in stored.items()}
            return {name: relation_divergence(*pair, self.temperature) for name, pair in rows.items()}

    @torch.no_grad()
    def _remember(self, vectors: Tensor, shares: Tensor) -> None:
        """Put unit vectors (batch, positions, dim) with class shares (batch, classes, h, w) into the banks."""
        new = {"memory_pixel": drawn_pixels, "memory_region": regions}
        for name, bank in self.banks.items():
            assert isinstance(bank, Bank)
            bank.put(*new[name](vectors, shares))


def regions(vectors: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Class numbers (n,) and unit means (n, dim) of every class that an image holds."""
    means, there = class_means(vectors, shares)
    return there.nonzero()[:, 1], F.normalize(means[there], dim=-1, eps=SHORTEST)


def drawn_pixels(vectors: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Class numbers (n,) and vectors (n, dim) of positions drawn for every class in proportion to its share."""
    flat, weights = vectors.flatten(0, 1), shares.flatten(2).transpose(0, 1).flatten(1)
    picks = [_draw(weight, PIXELS_PER_IMAGE * len(vectors)) for weight in weights]
    classes = [torch.full_like(pick, number) for number, pick in enumerate(picks)]
    return torch.cat(classes), flat[torch.cat(picks)]


def gathered(rows: Tensor) -> Tensor:
    """Rows (n, ...) of all ranks, in the order of the ranks, n of each rank's own; (sum of n, ...)."""
    if world_size() == 1:
        return rows
    counts = torch.zeros(world_size(), dtype=torch.int64, device=rows.device)
    counts[distributed.get_rank()] = len(rows)
    distributed.all_reduce(counts)
    padded = torch.cat([rows, rows.new_zeros(int(counts.max()) - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])


def _draw(weights: Tensor, most: int) -> Tensor:
    """At most ``most`` different positions with a weight above 0, drawn in proportion to it."""
    found = min(most, int((weights > 0).sum()))
    return torch.multinomial(weights, found) if found else torch.empty(0, dtype=torch.int64, device=weights.device)
