"""The real CT and MR below GKD_DATA_ROOT: counts, spacings, values, orientation, and damaged copies of them."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy import ndimage

from gkd_bench.data.catalogue import open_reader
from gkd_bench.data.domain import Plane, StackReader
from gkd_bench.data.orientation import find_turn
from gkd_bench.data.volumefiles import Turn
from gkd_bench.errors import DataError
from tests.data.made_up_volumes import arrays

ROOT = Path(os.environ.get("GKD_DATA_ROOT", "/nonexistent"))
COUNTS = {
    "chaos_ct": (1, 78),
    "chaos_mr_volumes": (5, 240),
    "lits_slices": (122, 623),
    "chaos_ct_slices": (4, 20),
    "chaos_mr_slices": (15, 31),
}

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not ROOT.is_dir(), reason="GKD_DATA_ROOT does not name a folder with the real data sets"),
]


def require(name: str) -> StackReader:
    reader = cast(StackReader, open_reader(name, ROOT))
    if not reader.folder_problems():
        return reader
    pytest.skip(f"{name} is not below GKD_DATA_ROOT")


@pytest.mark.parametrize("name", COUNTS)
def test_every_slice_reads_and_has_the_one_orientation(name: str) -> None:
    reader = require(name)
    assert reader.problems(deep=True) == []
    stacks = [reader.open(raw) for raw in reader.images()]
    assert (len(stacks), sum(stack.shape[0] for stack in stacks)) == COUNTS[name]
    for stack in stacks[:15]:
        planes = [plane for plane in stack.planes() if plane.label.any()]
        columns = np.concatenate([np.nonzero(plane.label)[1] for plane in planes])
        assert columns.mean() < 0.45 * stack.shape[2]  # the liver is on the left
        assert all(np.isfinite(plane.values).all() for plane in planes)


def test_chaos_ct_has_its_spacing_and_liver_in_hounsfield_units() -> None:
    reader = require("chaos_ct")
    raw = next(raw for raw in reader.images() if raw.subject == "3")
    stack = reader.open(raw)
    assert stack.shape == (78, 512, 512)
    # 3.2 mm is the thickness of its slices, which overlap: their places are 2 mm apart.
    assert stack.spacing == pytest.approx((2.0, 0.7265625, 0.7265625))
    values, label = arrays(stack)
    assert values[label > 0].mean() == pytest.approx(141.0, abs=0.5)
    lungs = [((plane > -930) & (plane < -700)).mean() for plane in (values[0], values[-1])]
    assert 2 * lungs[0] < lungs[1]  # from the feet to the head; in the bowel is some gas too


def test_chaos_ct_lies_as_is_and_every_turn_put_on_it_is_found() -> None:
    reader = require("chaos_ct")
    planes = list(reader.open(reader.images()[0]).planes())[::6]
    assert find_turn(planes) == Turn()
    for flags in itertools.product((False, True), repeat=3):
        put = Turn(False, *flags)
        lying = [Plane(put.plane(plane.values), put.plane(plane.label)) for plane in planes]
        found = find_turn(lying)
        assert found is not None
        assert all((found.plane(one.values) == two.values).all() for one, two in zip(lying, planes, strict=True))


def test_most_cases_of_lits_lie_as_they_should_by_their_anatomy() -> None:
    """Few slices with all above 255 HU cut off, where contrast looks like bone: far less than a volume offers."""
    reader = require("lits_slices")
    found = []
    for raw in reader.images():
        planes = [plane._replace(values=plane.values + 11) for plane in reader.open(raw).planes()]  # 255 becomes bone
        found.append(find_turn(planes))
    assert sum(turn == Turn() for turn in found) >= 110
    assert sum(turn not in (Turn(), None) for turn in found) <= 5


@pytest.mark.parametrize("number", range(5))
def test_mr_volumes_lie_with_the_spine_at_the_bottom(number: int) -> None:
    reader = require("chaos_mr_volumes")
    stack = reader.open(reader.images()[number])
    assert stack.shape == (48, 240, 240) and stack.spacing == pytest.approx((5.5, 1.6, 1.6))
    values, label = arrays(stack)
    rows, columns = np.nonzero(ndimage.binary_opening(values[24] > 0.2 * values[24].mean(), iterations=3))
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    liver = ndimage.center_of_mass(label)
    assert liver[2] < middle[1] - 10 and liver[1] < middle[0] + 20
    assert label[30:].sum() > label[:18].sum()  # the liver lies towards the head of an abdomen


@pytest.mark.parametrize("name", COUNTS)
def test_damaged_copies_read_or_say_what_is_wrong(name: str, tmp_path: Path) -> None:
    reader, rng = require(name), np.random.default_rng(0)
    raw = next(raw for raw in reader.images() if raw.subject in ("3", "13", "001", "101"))
    copies: dict[Path, bytes] = {}
    for path in raw.files():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        copies[copy] = copy.read_bytes()
    copied = cast(StackReader, open_reader(name, tmp_path))
    (own,) = (one for one in copied.images() if one.name == raw.name)
    assert copied.item_problems(own, deep=True) == []
    for number in range(8):
        path = list(copies)[int(rng.integers(len(copies)))]
        data = bytearray(copies[path])
        if number % 2:
            data = data[: int(rng.integers(len(data)))]
        else:
            for place in rng.integers(0, min(len(data), 2000), 20):
                data[place] ^= 0xFF
        path.write_bytes(data)
        try:
            count = sum(1 for _ in copied.planes(own, copied.open(own)))
            assert count == copied.open(own).shape[0] and not number % 2
        except DataError as error:
            text = str(error)
            assert f"subject {own.subject}" in text or own.name in text
        path.write_bytes(copies[path])
