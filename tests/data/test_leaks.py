from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gkd_bench.config.schema import Prepare, Scale
from gkd_bench.data import digests
from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.catalogue import Catalogue, open_reader
from gkd_bench.data.digests import memo_file
from gkd_bench.data.domain import RawImage
from gkd_bench.data.leaks import leak_problems
from gkd_bench.data.prepare import prepare_domain
from gkd_bench.data.readers.phantom import PhantomClear, PhantomDim
from gkd_bench.data.splits import Split

NATIVE = Prepare(scale=Scale(rule="none"))
ROOT = Path(os.environ.get("GKD_DATA_ROOT", "/nonexistent"))


@pytest.fixture
def prepared(tmp_path: Path) -> Callable[..., list[PreparedDomain]]:
    def prepare(names: Sequence[str], root: Path | None = None) -> list[PreparedDomain]:
        return [prepare_domain(name, Catalogue(root, NATIVE), tmp_path / "cache") for name in names]

    return prepare


def picture(root: Path, domain: str, split: Split, place: int = 0) -> RawImage:
    reader = open_reader(domain, root)
    splits = reader.splits()
    return [raw for raw in reader.images() if splits[raw.subject] == split][place]


def plant(root: Path, source: RawImage, target: RawImage) -> None:
    """Store one image under the other's name; readers go by the content, not by the ending."""
    assert source.image is not None and target.image is not None
    shutil.copy(source.image, target.image)


def moved(domain: PreparedDomain, subject: str, split: Split, name: str | None = None) -> PreparedDomain:
    """The domain with a subject, or one image of it, in another split."""
    images = tuple(
        image.model_copy(update={"split": split}) if image.subject == subject and name in (None, image.name) else image
        for image in domain.manifest.images
    )
    return replace(domain, manifest=domain.manifest.model_copy(update={"images": images}))


# ---------------------------------------------------------------- clean data


def test_clean_domains_have_no_leak(prepared: Callable[..., list[PreparedDomain]], layout: Callable[..., Path]) -> None:
    names = ["stare", "drive", "phantom_clear", "phantom_warm"]
    for name in names[:2]:
        root = layout(name)
    assert leak_problems(prepared(names, root), names, Catalogue(root)) == []


def test_same_picture_twice_in_training_or_twice_in_tests_is_no_leak(
    prepared: Callable[..., list[PreparedDomain]], layout: Callable[..., Path]
) -> None:
    root = layout("drive")
    for split in ("train", "test"):
        plant(root, picture(root, "drive", split), picture(root, "drive", split, 1))
    assert leak_problems(prepared(["drive"], root), ["drive"], Catalogue(root)) == []


# ---------------------------------------------------------------- planted leaks


@pytest.mark.parametrize("split", ["train", "val"])
def test_picture_that_another_domain_is_tested_on_is_caught(
    split: Split, prepared: Callable[..., list[PreparedDomain]], layout: Callable[..., Path]
) -> None:
    layout("chase_db1")
    root = layout("drive")
    learned, scored = picture(root, "chase_db1", split), picture(root, "drive", "test", 3)
    plant(root, learned, scored)
    domains = prepared(["drive", "chase_db1"], root)
    assert learned.image is not None and scored.image is not None
    assert leak_problems(domains, ["chase_db1"], Catalogue(root)) == [
        f"chase_db1 {learned.name} ({split}; {learned.image.name}) and drive {scored.name} (test; {scored.image.name}) are the "
        "same picture, so a model would be scored on what it was trained or selected on; remove one of the two, or leave "
        "one of the domains out"
    ]
    assert leak_problems(domains, ["drive"], Catalogue(root)) == []  # nothing of chase_db1 is learned from


def test_picture_in_two_splits_of_one_domain_is_caught(
    prepared: Callable[..., list[PreparedDomain]], layout: Callable[..., Path]
) -> None:
    root = layout("chase_db1")
    learned, scored = picture(root, "chase_db1", "train", 5), picture(root, "chase_db1", "test", 2)
    plant(root, learned, scored)
    (problem,) = leak_problems(prepared(["chase_db1"], root), ["chase_db1"], Catalogue(root))
    assert learned.name in problem and scored.name in problem


def test_every_twin_has_a_line_of_its_own(
    prepared: Callable[..., list[PreparedDomain]], layout: Callable[..., Path]
) -> None:
    root = layout("drive")
    for place in range(3):
        plant(root, picture(root, "drive", "train"), picture(root, "drive", "test", place))
    assert len(leak_problems(prepared(["drive"], root), ["drive"], Catalogue(root))) == 3


def test_generated_pictures_are_compared_by_their_pixels(
    prepared: Callable[..., list[PreparedDomain]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PhantomDim, "style", PhantomClear.style)
    clear, dim = prepared(["phantom_clear", "phantom_dim"])
    assert leak_problems([clear, dim], ["phantom_clear"], Catalogue()) == []  # the same subjects are in the same splits
    (problem,) = leak_problems([clear, moved(dim, "03", "test")], ["phantom_clear"], Catalogue())
    assert problem.startswith("phantom_clear phantom_clear_03 (train; generated) and phantom_dim phantom_dim_03 (test;")


def test_subject_in_two_splits_is_caught(
    prepared: Callable[..., list[PreparedDomain]], layout: Callable[..., Path]
) -> None:
    root = layout("chase_db1")
    (domain,) = prepared(["chase_db1"], root)
    (problem,) = leak_problems([moved(domain, "09", "test", "Image_09L")], ["chase_db1"], Catalogue(root))
    assert problem.startswith("chase_db1: subject 09 is in the splits test and val; correct the split file")


# ---------------------------------------------------------------- cost


def test_nothing_is_hashed_or_drawn_twice(
    prepared: Callable[..., list[PreparedDomain]],
    layout: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, names = layout("drive"), ["drive", "phantom_clear"]
    domains, memo = prepared(names, root), memo_file(tmp_path / "cache")
    assert leak_problems(domains, names, Catalogue(root), memo) == []
    plant(root, picture(root, "drive", "train"), picture(root, "drive", "test"))
    assert len(leak_problems(domains, names, Catalogue(root), memo)) == 1

    def never(*arguments: object) -> str:
        raise AssertionError("asked for what is remembered")

    monkeypatch.setattr(digests, "file_digest", never)
    monkeypatch.setattr(PhantomClear, "read", never)
    assert len(leak_problems(domains, names, Catalogue(root), memo)) == 1


@pytest.mark.real
@pytest.mark.skipif(not ROOT.is_dir(), reason="GKD_DATA_ROOT does not name a folder with the real data sets")
def test_real_photographs_have_no_leak_and_are_checked_within_a_second(
    prepared: Callable[..., list[PreparedDomain]], tmp_path: Path
) -> None:
    names = [name for name in ("chase_db1", "stare") if (ROOT / open_reader(name, ROOT).card.folder).is_dir()]
    domains = prepared(names, ROOT)
    start = time.perf_counter()
    assert leak_problems(domains, names, Catalogue(ROOT), memo_file(tmp_path / "cache")) == []
    assert time.perf_counter() - start < 1.0
