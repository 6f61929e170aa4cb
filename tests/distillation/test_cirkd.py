"""CIRKD: relations across the images of a batch, and banks that remember past ones."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gkd_bench.config.method_options import CirkdOptions
from gkd_bench.distillation import cirkd
from gkd_bench.distillation.base import Batch, Guides, StudentOutput
from gkd_bench.networks.base import SegmentationNetwork


def wave(*shape: int, step: float = 1.0) -> torch.Tensor:
    return torch.sin(step * torch.arange(1.0, 1.0 + int(np.prod(shape)))).view(shape)


def own(student: SegmentationNetwork, batch: Batch) -> StudentOutput:
    features = student.encode(batch.images)
    return StudentOutput(features, student.decode(features.bottleneck, features.skips))


def test_batch_relations_match_a_loop_over_pairs_of_images() -> None:
    student, teacher = wave(3, 4, 2, 2), wave(3, 5, 2, 2, step=0.7)

    def rows(maps: torch.Tensor, i: int, j: int) -> torch.Tensor:
        first, second = (F.normalize(maps[k].flatten(1).T, dim=1) for k in (i, j))
        return first @ second.T / 0.1

    pairs = [(i, j) for i in range(3) for j in range(3)]
    expected = np.mean(
        [
            F.kl_div(
                F.log_softmax(rows(student, *pair), 1), F.softmax(rows(teacher, *pair), 1), reduction="batchmean"
            ).item()
            for pair in pairs
        ]
    )
    assert cirkd.batch_relations(student, teacher, 0.1).item() == pytest.approx(expected, rel=1e-4)


def test_relations_of_a_rotated_embedding_are_the_same() -> None:
    maps = wave(2, 3, 2, 2)
    turn, _ = torch.linalg.qr(wave(3, 3, step=0.9))
    assert cirkd.batch_relations(torch.einsum("dc,bchw->bdhw", turn, maps), maps, 0.1).item() == pytest.approx(
        0, abs=1e-5
    )


def test_a_bank_fills_then_forgets_the_oldest_of_a_class() -> None:
    bank = cirkd.Bank(classes=2, size=3, dim=1)
    assert bank.stored().shape == (0, 1)
    bank.put(torch.tensor([0, 1, 0]), torch.tensor([[1.0], [10.0], [2.0]]))
    assert bank.stored().flatten().tolist() == [1.0, 2.0, 10.0]
    bank.put(torch.tensor([0, 0]), torch.tensor([[3.0], [4.0]]))
    assert sorted(bank.stored().flatten().tolist()) == [2.0, 3.0, 4.0, 10.0]
    bank.put(torch.zeros(5, dtype=torch.int64), torch.arange(5.0, 10.0)[:, None])
    assert sorted(bank.stored().flatten().tolist()) == [7.0, 8.0, 9.0, 10.0]
    bank.put(torch.zeros(1, dtype=torch.int64), torch.tensor([[11.0]]))
    assert sorted(bank.stored().flatten().tolist()) == [8.0, 9.0, 10.0, 11.0]


def test_regions_are_the_directions_of_the_classes_an_image_holds() -> None:
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.6, 0.8]]])
    shares = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]).view(2, 2, 1, 2)
    classes, means = cirkd.regions(vectors, shares)
    assert classes.tolist() == [0, 0, 1]
    assert means.flatten().tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0.6, 0.8, 0.6, 0.8])


def test_drawn_pixels_come_from_positions_that_hold_the_class() -> None:
    vectors = torch.arange(16.0).view(1, 16, 1)
    shares = torch.zeros(1, 3, 4, 4)
    shares[0, 0, :2], shares[0, 1, 3, :2] = 1.0, 0.3
    classes, drawn = cirkd.drawn_pixels(vectors, shares)
    assert classes.tolist() == [0] * cirkd.PIXELS_PER_IMAGE + [1, 1]
    assert drawn[classes == 0].max() < 8 and sorted(drawn[classes == 1].flatten().tolist()) == [12.0, 13.0]
    assert len(set(drawn.flatten().tolist())) == len(drawn)


def test_memory_terms_are_the_divergence_of_similarities_with_what_is_stored(
    student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    method = cirkd.CrossImageRelations(CirkdOptions(pixel=0.0, batch=0.0, memory_pixel=0.0), guides, student.eval())
    assert method.memory is not None and set(method.memory.banks) == {"memory_region"}
    term = method.terms(student, own(student, batch), batch)["memory_region"]
    stored = method.memory.banks["memory_region"].stored()  # type: ignore[operator]
    assert stored.shape == (8, stored.shape[1]) and torch.allclose(stored.norm(dim=1), torch.ones(8))
    with torch.no_grad():
        mine = F.conv2d(own(student, batch).decoded.tap, method.memory.bridge.projections[0].weight)  # type: ignore[arg-type]
        features = method.teacher.encode(batch.images)
        theirs = method.teacher.decode(features.bottleneck, features.skips).tap
        rows = [F.normalize(m.movedim(1, -1).flatten(0, 2), dim=1) @ stored.T / 0.1 for m in (mine, theirs)]
        expected = F.kl_div(F.log_softmax(rows[0], 1), F.softmax(rows[1], 1), reduction="batchmean")
    assert term.item() == pytest.approx(expected.item(), rel=1e-3)


def test_all_terms_are_zero_when_the_student_is_the_teacher(guides: Guides, batch: Batch) -> None:
    assert guides.teacher is not None
    same = copy.deepcopy(guides.teacher).eval()
    terms = cirkd.CrossImageRelations(CirkdOptions(), guides, same).terms(same, own(same, batch), batch)
    assert set(terms) == {"pixel", "batch", "memory_pixel", "memory_region"}
    for term in terms.values():
        assert term.item() == pytest.approx(0.0, abs=1e-5)


def test_banks_are_part_of_the_methods_own_state_and_repeat_under_a_seed(
    student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    def bank_after_two_steps() -> torch.Tensor:
        method = cirkd.CrossImageRelations(CirkdOptions(bank=20), guides, student.eval())
        for seed in (1, 2):
            torch.manual_seed(seed)
            method.terms(student, own(student, batch), batch)
        return method.own_state()["memory.banks.memory_pixel.entries"]

    first = bank_after_two_steps()
    assert first.abs().sum() > 0 and torch.equal(first, bank_after_two_steps())


def test_tiles_without_foreground_leave_its_ring_empty(
    student: SegmentationNetwork, guides: Guides, batch: Batch
) -> None:
    method = cirkd.CrossImageRelations(CirkdOptions(), guides, student)
    empty = batch._replace(labels=torch.zeros_like(batch.labels))
    terms = method.terms(student, own(student, empty), empty)
    assert all(torch.isfinite(term) for term in terms.values())
    assert method.own_state()["memory.banks.memory_region.written"].tolist() == [4, 0]


class TwoRanks:
    """What ``gathered`` asks of torch.distributed, for two ranks that are threads of this process."""

    def __init__(self) -> None:
        self.here, self.barrier = threading.local(), threading.Barrier(2, timeout=10)
        self.handed: dict[int, torch.Tensor] = {}

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return 2

    def get_rank(self) -> int:
        return int(self.here.rank)

    def all_gather(self, parts: list[torch.Tensor], own: torch.Tensor) -> None:
        self.handed[self.get_rank()] = own.clone()
        self.barrier.wait()
        for rank, part in enumerate(parts):
            assert part.shape == self.handed[rank].shape, "all_gather needs equal shapes"
            part.copy_(self.handed[rank])
        self.barrier.wait()

    def all_reduce(self, values: torch.Tensor) -> None:
        parts = [torch.empty_like(values) for _ in range(2)]
        self.all_gather(parts, values)
        values.copy_(parts[0] + parts[1])


def test_ranks_with_different_numbers_of_rows_fill_the_same_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = TwoRanks()
    monkeypatch.setattr(cirkd, "distributed", ranks)
    monkeypatch.setattr(cirkd, "world_size", ranks.get_world_size)

    def fill(rank: int) -> list[float]:
        ranks.here.rank = rank
        bank, rows = cirkd.Bank(classes=2, size=4, dim=1), 2 * rank  # the first rank has nothing to put in at first
        bank.put(torch.ones(rows, dtype=torch.int64), 10.0 * rank + torch.arange(float(rows))[:, None])
        bank.put(torch.tensor([rank]), torch.tensor([[float(rank)]]))
        return list(bank.stored().flatten().tolist())

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(fill, range(2))) == [[0.0, 10.0, 11.0, 1.0]] * 2
