"""The look at CT and MR before anything is trained on them: counts, spacing, values inside the label, orientation, pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gkd_bench.config.data import Volumes
from gkd_bench.data.domain import RawStack, Spacing, StackReader
from gkd_bench.data.sheet import slice_panel
from gkd_bench.data.splits import SPLITS
from gkd_bench.data.stacks import grey_window, prepare_slice, working_size
from gkd_bench.errors import DataError

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class StackCheck:
    """Findings on one stack.

    Attributes:
        name: stack.
        subject: its subject.
        split: its split.
        shape: (slices, rows, columns), native.
        spacing: millimetres between slices, rows and columns; none where unknown.
        filled: slices with foreground.
        share: share of all voxels that is labelled foreground.
        inside: mean of the values inside the label: Hounsfield units of CT.
        remark: how its orientation was found, if not from its header.
    """

    name: str
    subject: str
    split: str
    shape: tuple[int, int, int]
    spacing: Spacing | None
    filled: int
    share: float
    inside: float
    remark: str


def check_stacks(reader: StackReader, settings: Volumes) -> tuple[list[StackCheck], list[Bytes], list[str]]:
    """Findings on every stack, a picture of its slice with most foreground, and one line per problem of broken ones."""
    checks: list[StackCheck] = []
    panels: list[Bytes] = []
    broken: list[str] = []
    splits = reader.splits()
    for raw in reader.images():
        try:
            check, panel = _check_stack(reader, raw, splits[raw.subject], settings)
        except DataError as error:
            broken += error.problems
            continue
        checks.append(check)
        panels.append(panel)
    return checks, panels, broken


def _check_stack(reader: StackReader, raw: RawStack, split: str, settings: Volumes) -> tuple[StackCheck, Bytes]:
    stack = reader.open(raw)
    filled = pixels = most = 0
    total, best = 0.0, None
    for number, plane in enumerate(reader.planes(raw, stack)):
        count = int(np.count_nonzero(plane.label))
        filled, pixels = filled + (count > 0), pixels + count
        total += float(plane.values[plane.label > 0].sum(dtype=np.float64))
        if count > most:
            most, best = count, (number, plane)
    assert best is not None  # planes() refuses a stack without foreground
    number, plane = best
    window, size = grey_window(reader, stack, settings), working_size(stack, settings)
    image, label = prepare_slice(plane.values, plane.label, window, size)
    share = pixels / float(np.prod(stack.shape))
    check = StackCheck(
        raw.name, raw.subject, split, stack.shape, stack.spacing, filled, share, total / pixels, stack.remark
    )
    return check, slice_panel(image, label, f"{raw.name} {split} slice {number}")


def stack_table(domains: Sequence[tuple[str, Sequence[StackCheck]]]) -> list[str]:
    """Lines of a table with one line per domain; none without domains."""
    if not domains:
        return []
    head = (
        f"{'domain':<18}{'stacks':>7}{'subjects':>9}{'slices':>8}{'filled':>8}  {'train/val/test':<15}{'size':<10}"
        f"{'spacing mm':<18}{'label':>7}{'inside':>8}"
    )
    return [head, *(_line(name, stacks) for name, stacks in domains), *_turned(domains)]


def _line(name: str, stacks: Sequence[StackCheck]) -> str:
    splits = Counter(stack.split for stack in stacks)
    counts = "/".join(str(splits[split]) for split in SPLITS)
    slices, filled = sum(stack.shape[0] for stack in stacks), sum(stack.filled for stack in stacks)
    first = stacks[0]
    spacing = "unknown" if first.spacing is None else " x ".join(f"{step:.3g}" for step in first.spacing)
    share, inside = (float(np.mean([getattr(stack, key) for stack in stacks])) for key in ("share", "inside"))
    return (
        f"{name:<18}{len(stacks):>7}{len({stack.subject for stack in stacks}):>9}{slices:>8}{filled:>8}  {counts:<15}"
        f"{f'{first.shape[2]}x{first.shape[1]}':<10}{spacing:<18}{share:>7.1%}{inside:>8.0f}"
    )


def _turned(domains: Sequence[tuple[str, Sequence[StackCheck]]]) -> list[str]:
    found: list[str] = []
    for name, stacks in domains:
        for remark, count in Counter(stack.remark for stack in stacks if stack.remark).items():
            found.append(f"{name}: {count} stacks {remark}")
    return found
