from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from gkd_bench.config.schema import Prepare, Scale, Stress
from gkd_bench.data import stress as stress_module
from gkd_bench.data.cache import PreparedDomain, SourceImages, TestImages, open_prepared
from gkd_bench.data.catalogue import Catalogue, open_reader
from gkd_bench.data.corruptions import find_corruption
from gkd_bench.data.manifest import PreparedImage
from gkd_bench.data.prepare import fingerprint, prepare_domain, prepare_image
from gkd_bench.data.stress import (
    CLEAN,
    Condition,
    StressBank,
    choose_images,
    contact_sheet,
    open_stress,
    prepare_stress,
    stress_conditions,
    stress_fingerprint,
    stress_reference,
)
from gkd_bench.data.tiles import TileSampler, grid_tiles
from gkd_bench.errors import DataError, LeakError, StoreError

SMALL = Stress(corruptions=("gamma", "blur"), strengths=(1, 3))
NATIVE = Prepare(scale=Scale(rule="none"))


def copied(bank: StressBank, tmp_path: Path) -> tuple[Path, str, str]:
    """A private copy of a cache with the bank and its domain, to be damaged; cache, name and fingerprint."""
    shutil.copytree(bank.folder.parent.parent, tmp_path / "copy")
    name, _, key = bank.reference.partition("@")
    return tmp_path / "copy", name, key


@pytest.fixture
def bank(phantom: PreparedDomain) -> StressBank:
    return prepare_stress(phantom, Catalogue(), SMALL, phantom.folder.parent.parent)


# ---------------------------------------------------------------- what is in it


def test_bank_holds_the_validation_images_under_every_condition(bank: StressBank, phantom: PreparedDomain) -> None:
    val = phantom.source_splits().val
    assert bank.conditions == (CLEAN, ("gamma", 1), ("gamma", 3), ("blur", 1), ("blur", 3))
    for condition in bank.conditions:
        images = bank.images(condition)
        assert isinstance(images, SourceImages) and not isinstance(images, TestImages)
        assert images.entries == val.entries
        for i in range(len(val)):
            assert np.array_equal(images.image(i), val.image(i)) == (condition == CLEAN)
            assert np.array_equal(images.label(i), val.label(i))
            assert np.array_equal(images.native_label(i), val.native_label(i))
            assert np.array_equal(images.native_fov(i), val.native_fov(i))


def test_corruption_acts_on_the_raw_image_before_preparation(bank: StressBank, phantom: PreparedDomain) -> None:
    reader = open_reader("phantom_clear")
    detail = reader.card.vessel_width * phantom.manifest.fov_diameter
    images = bank.images(("gamma", 3))
    for i in range(len(images)):
        raw = next(raw for raw in reader.images() if raw.name == images.name(i))
        pixels = reader.read(raw)
        rgb = np.asarray(find_corruption("gamma").apply(pixels.rgb, pixels.fov, detail, 3, seed=i), np.uint8)
        expected, _, _ = prepare_image(pixels._replace(rgb=rgb), Prepare(), images.size(i))
        assert np.array_equal(images.image(i), expected)


def test_neighbouring_images_take_both_directions(bank: StressBank) -> None:
    means = [[bank.images(c).image(i).mean() for c in (CLEAN, ("gamma", 3))] for i in (0, 1)]
    assert means[0][0] < means[0][1]
    assert means[1][0] > means[1][1]


def test_training_and_validation_code_run_on_it(bank: StressBank) -> None:
    images = bank.images(("blur", 3))
    assert TileSampler(images, 32).draw(0, 2).images.shape == (2, 1, 32, 32)
    grid, clean = grid_tiles(images, 32), grid_tiles(bank.clean, 32)
    assert grid.images.shape == clean.images.shape
    assert bool((grid.labels == clean.labels).all())


def test_subset_keeps_grey_levels_with_their_labels(bank: StressBank) -> None:
    images = bank.images(("blur", 3))
    last = images.subset([1])
    assert last.name(0) == images.name(1)
    assert np.array_equal(last.image(0), images.image(1))
    assert np.array_equal(last.label(0), images.label(1))


def test_photographs_of_a_file_domain_are_read_one_by_one(tmp_path: Path, layout: Callable[..., Path]) -> None:
    root = layout("chase_db1")
    domain = prepare_domain("chase_db1", Catalogue(root, NATIVE), tmp_path / "cache")
    bank = prepare_stress(
        domain, Catalogue(root), Stress(corruptions=("contrast",), images=2), tmp_path / "cache", verify=True
    )
    assert bank.manifest.images == ("Image_09L", "Image_10L")
    assert bank.images(("contrast", 2)).image(1).shape == (52, 60)
    outside = bank.clean.fov(0) == 0
    assert outside.any()
    plain = prepare_domain(
        "chase_db1", Catalogue(root, Prepare(scale=Scale(rule="none"), clahe=None)), tmp_path / "cache"
    )
    whole = prepare_stress(plain, Catalogue(root), Stress(), tmp_path / "cache")
    for condition in whole.conditions:
        assert np.array_equal(whole.images(condition).image(0)[outside], whole.clean.image(0)[outside])


def test_unknown_condition_is_refused_with_the_known_ones(bank: StressBank) -> None:
    with pytest.raises(StoreError, match="no condition blur 2; the bank has none 0, gamma 1"):
        bank.images(("blur", 2))


# ---------------------------------------------------------------- which images


def made_up(subjects: str) -> SourceImages:
    """Images of the subjects, one letter each; no pixels."""
    entries = tuple(
        PreparedImage(name=f"{s}{i}", subject=s, split="val", size=(1, 1), native_size=(1, 1))
        for i, s in enumerate(subjects)
    )
    nothing: Any = None
    return SourceImages("made_up", entries, tuple(range(len(entries))), nothing)


@pytest.mark.parametrize(
    ("subjects", "count", "expected"),
    [
        ("abc", 8, "a0 b1 c2"),
        ("aabb", 2, "a0 b2"),
        ("aaabc", 3, "a0 b3 c4"),
        ("aaabc", 4, "a0 a1 b3 c4"),
        ("abcdef", 2, "b1 e4"),
        ("abcdefghi", 3, "b1 e4 h7"),
    ],
)
def test_chosen_images_are_spread_over_subjects(subjects: str, count: int, expected: str) -> None:
    chosen = choose_images(made_up(subjects), count)
    assert [chosen.name(i) for i in range(len(chosen))] == expected.split()


# ---------------------------------------------------------------- leaks


def test_no_bank_is_made_of_a_test_split(phantom: PreparedDomain) -> None:
    test: Any = phantom.test_split()
    for planted in (test, test.images):
        with pytest.raises(LeakError, match="test split"):
            choose_images(planted, 8)


@pytest.mark.parametrize("split", ["test", "train"])
def test_bank_that_names_an_image_of_another_split_is_not_opened(
    split: str, bank: StressBank, phantom: PreparedDomain, tmp_path: Path
) -> None:
    cache, name, key = copied(bank, tmp_path)
    path = cache / name / key / "manifest.json"
    manifest = json.loads(path.read_text())
    planted = next(image.name for image in phantom.manifest.images if image.split == split)
    manifest["images"][1] = planted
    path.write_text(json.dumps(manifest))
    with pytest.raises(LeakError, match=f"{planted} not in the validation split"):
        open_stress(cache, name, key)


# ---------------------------------------------------------------- fingerprints


def test_everything_that_changes_the_images_changes_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = "phantom_clear@" + "0" * 24
    variants = [
        (domain, Stress()),
        (domain[:-1] + "1", Stress()),
        (domain, Stress(corruptions=("gamma",))),
        (domain, Stress(strengths=(1,))),
        (domain, Stress(images=3)),
        (domain, Stress(seed=1)),
    ]
    keys = {stress_fingerprint(*variant) for variant in variants}
    monkeypatch.setattr(stress_module, "BANK_VERSION", 99)
    keys.add(stress_fingerprint(domain, Stress()))
    assert len(keys) == len(variants) + 1


def test_order_and_repetition_in_the_sweep_file_do_not_matter() -> None:
    first, second = (
        Stress(corruptions=("noise", "blur"), strengths=(3, 1)),
        Stress(corruptions=("blur", "noise", "blur"), strengths=(1, 3)),
    )
    assert stress_conditions(first) == (("blur", 1), ("blur", 3), ("noise", 1), ("noise", 3))
    assert stress_fingerprint("a@0", first) == stress_fingerprint("a@0", second)


def test_reference_is_known_before_anything_is_written(bank: StressBank) -> None:
    domain = f"phantom_clear@{fingerprint('phantom_clear', Catalogue())}"
    assert stress_reference(domain, SMALL) == bank.reference
    assert bank.reference == f"phantom_clear-stress@{bank.folder.name}"


def test_domain_is_left_as_it_was(phantom: PreparedDomain, tmp_path: Path) -> None:
    shutil.copytree(phantom.folder, tmp_path / "phantom_clear" / phantom.folder.name)
    domain = open_prepared(tmp_path, "phantom_clear", phantom.folder.name)
    prepare_stress(domain, Catalogue(), SMALL, tmp_path)
    assert open_prepared(tmp_path, "phantom_clear", phantom.folder.name, verify=True).manifest == phantom.manifest
    assert fingerprint("phantom_clear", Catalogue()) == phantom.folder.name


# ---------------------------------------------------------------- the cache


def test_second_preparation_opens_the_first_without_raw_data(tmp_path: Path, layout: Callable[..., Path]) -> None:
    root = layout("chase_db1")
    domain = prepare_domain("chase_db1", Catalogue(root, NATIVE), tmp_path / "cache")
    first = prepare_stress(domain, Catalogue(root), SMALL, tmp_path / "cache")
    times = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    shutil.rmtree(root / "CHASEDB1")
    second = prepare_stress(domain, Catalogue(root), SMALL, tmp_path / "cache")
    assert second.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in second.folder.iterdir()} == times


def test_other_photographs_than_those_prepared_are_refused(tmp_path: Path, layout: Callable[..., Path]) -> None:
    root, cache = layout("chase_db1"), tmp_path / "cache"
    domain = prepare_domain("chase_db1", Catalogue(root, NATIVE), cache)
    raw = next(raw for raw in open_reader("chase_db1", root).images() if raw.subject == "09")
    assert raw.image is not None
    picture = cv2.imread(str(raw.image))
    assert picture is not None
    cv2.imwrite(str(raw.image), picture[:, ::-1])
    with pytest.raises(DataError, match=r"Image_09L: differs by \d+ grey levels"):
        prepare_stress(domain, Catalogue(root), SMALL, cache)
    assert not [path for path in (cache / "chase_db1-stress").iterdir() if path.is_dir()]


def test_changed_array_fails_verification_only(bank: StressBank, tmp_path: Path) -> None:
    cache, name, key = copied(bank, tmp_path)
    path = cache / name / key / "stressed.npy"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(bytes(content))
    open_stress(cache, name, key)
    with pytest.raises(StoreError, match=r"stressed\.npy does not match its checksum"):
        open_stress(cache, name, key, verify=True)


@pytest.mark.parametrize("damage", ["no folder", "torn manifest", "no array", "no domain"])
def test_damaged_bank_is_a_store_error_that_says_what_to_do(damage: str, bank: StressBank, tmp_path: Path) -> None:
    cache, name, key = copied(bank, tmp_path)
    if damage == "no folder":
        shutil.rmtree(cache / name)
    elif damage == "torn manifest":
        (cache / name / key / "manifest.json").write_text('{"domain": ')
    elif damage == "no array":
        (cache / name / key / "stressed.npy").unlink()
    else:
        shutil.rmtree(cache / "phantom_clear")
    with pytest.raises(StoreError, match="run the sweep"):
        open_stress(cache, name, key)


# ---------------------------------------------------------------- the picture


def test_contact_sheet_shows_every_corruption_beside_the_clean_image(bank: StressBank) -> None:
    picture = contact_sheet(bank)
    assert contact_sheet(bank) == picture
    assert contact_sheet(bank, 1) != picture
    sheet = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert sheet is not None
    assert sheet.shape == (2 * 222, 3 * 400, 3)
    gamma_clean, blur_clean = sheet[22:222, :400], sheet[244:444, :400]
    assert np.array_equal(gamma_clean, blur_clean)
    assert np.abs(sheet[244:444, 800:].astype(int) - blur_clean).mean() > 1


def test_conditions_read_from_the_manifest_keep_their_names(bank: StressBank) -> None:
    assert bank.conditions[1] == Condition(corruption="gamma", strength=1)
    assert [condition.corruption for condition in bank.conditions] == ["none", "gamma", "gamma", "blur", "blur"]
