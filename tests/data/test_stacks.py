"""Preparation of CT and MR: what comes out, that it can be interrupted, and that broken stacks are named or left out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gkd_bench.config.data import Percentiles, Stress, Volumes, Window
from gkd_bench.data.cache import PreparedDomain, TestImages, open_prepared
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.check import preflight
from gkd_bench.data.leaks import leak_problems
from gkd_bench.data.manifest import thin_empty
from gkd_bench.data.prepare import fingerprint, prepare_domain
from gkd_bench.data.readers.chaos import ChaosCt
from gkd_bench.data.readiness import readiness_problems
from gkd_bench.data.stacks import StackJob, StackNote, in_turn, prepare_slice, prepare_stack
from gkd_bench.data.statement import domain_records
from gkd_bench.data.stress import prepare_stress
from gkd_bench.data.tiles import TileSampler, grid_tiles
from gkd_bench.errors import DataError, LeakError, StoreError

from .made_up_volumes import SPACING, arrays, body, write_chaos_ct, write_lits

SMALL = Volumes(size=32)
LIVER = ("liver",)


def catalogue(root: Path | None = None, **changes: object) -> Catalogue:
    return Catalogue(root, volumes=changes.pop("volumes", SMALL), classes=changes.pop("classes", LIVER), **changes)  # type: ignore[arg-type]


@pytest.fixture
def chaos(tmp_path: Path) -> Path:
    """CHAOS CT patients 1 (train), 23 (val or train) and 3 (test)."""
    for number, patient in enumerate(("1", "2", "3")):
        write_chaos_ct(tmp_path / "raw" / "CHAOS" / "CT" / patient, body(seed=number))
    return tmp_path / "raw"


@pytest.fixture(scope="session")
def phantom_ct(tmp_path_factory: pytest.TempPathFactory) -> PreparedDomain:
    return prepare_domain("phantom_ct", catalogue(), tmp_path_factory.mktemp("cache"))


# ---------------------------------------------------------------- what comes out


def test_native_labels_and_working_slices_are_those_of_the_files(chaos: Path, tmp_path: Path) -> None:
    place = catalogue(chaos, volumes=Volumes(size=32, window=Window(low=-100, high=150)))
    images = prepare_domain("chaos_ct", place, tmp_path / "cache").test_split().images
    reader = place.open("chaos_ct")
    raw = next(raw for raw in reader.images() if raw.subject == "3")
    values, labels = arrays(reader.open(raw))  # type: ignore[attr-defined]
    assert len(images) == len(values) and images.size(0) == (24, 32)
    for index in range(len(images)):
        assert (images.native_label(index) == labels[index]).all()
        expected = np.clip((values[index] + 100) / 250 * 255, 0, 255)
        assert np.abs(images.image(index) - expected).max() <= 0.5 + 1e-3
        assert images.fov(index).all() and images.native_fov(index).shape == labels[index].shape


def test_slices_are_reduced_by_area_and_labels_by_nearest_class() -> None:
    values = np.kron(np.arange(16).reshape(4, 4), np.ones((2, 2))).astype(np.float32)
    label = np.kron(np.arange(16).reshape(4, 4) % 4, np.ones((2, 2))).astype(np.uint8)
    grey, small = prepare_slice(values, label, (0.0, 15.0), (4, 4))
    assert (grey == np.rint(np.arange(16).reshape(4, 4) * 17)).all()
    assert (small == np.arange(16).reshape(4, 4) % 4).all()


def test_spacing_rule_gives_every_domain_the_same_millimetres_per_pixel(tmp_path: Path) -> None:
    place = catalogue(volumes=Volumes(spacing=4.0))
    sizes = {
        name: prepare_domain(name, place, tmp_path).test_split().images.size(0) for name in ("phantom_ct", "phantom_mr")
    }
    assert sizes == {"phantom_ct": (84, 84), "phantom_mr": (80, 80)}  # 96 px of 3.5 mm, 80 px of 4 mm


def test_mr_window_is_the_percentiles_of_each_stack(tmp_path: Path) -> None:
    place = catalogue(volumes=Volumes(size=40, percentiles=Percentiles(low=5, high=95)))
    domain = prepare_domain("phantom_mr", place, tmp_path)
    reader = place.open("phantom_mr")
    for raw, stack in zip(reader.images()[:3], domain.manifest.stacks, strict=False):
        values, _ = arrays(reader.open(raw))  # type: ignore[attr-defined]
        sample = values[:, ::4, ::4]
        assert stack.window == pytest.approx(np.percentile(sample[sample > sample.min()], [5, 95]), rel=1e-4)


def test_volumes_group_the_slices_of_a_stack_in_order(phantom_ct: PreparedDomain) -> None:
    images = phantom_ct.test_split().images
    volumes = images.volumes()
    assert len(volumes) == 4 and all(volume.stacked and volume.spacing == (3.0, 3.5, 3.5) for volume in volumes)
    assert [i for volume in volumes for i in volume.indices] == list(range(len(images)))
    assert {images.entries[i].stack for i in volumes[1].indices} == {volumes[1].name}


def test_classes_that_a_sweep_does_not_name_become_background(phantom_ct: PreparedDomain, tmp_path: Path) -> None:
    both = prepare_domain("phantom_ct", catalogue(classes=("spleen", "liver")), tmp_path).test_split().images
    liver = phantom_ct.test_split().images
    found = {int(value) for i in range(len(both)) for value in np.unique(both.native_label(i))}
    assert found == {0, 1, 2}
    assert all(((both.native_label(i) == 2) == (liver.native_label(i) == 1)).all() for i in range(len(liver)))


def test_everyone_of_a_target_can_be_scored(phantom_ct: PreparedDomain) -> None:
    everyone = phantom_ct.test_split(everyone=True).images
    assert isinstance(everyone, TestImages)
    assert len(everyone.volumes()) == 12 and len(phantom_ct.test_split().images.volumes()) == 4


# ---------------------------------------------------------------- empty slices


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_empty_slices_are_thinned_to_their_share_evenly(share: float) -> None:
    filled = "0" * 20 + "1" * 30 + "0" * 50
    rows = thin_empty(range(100), filled, share)
    empty = [row for row in rows if filled[row] == "0"]
    assert [row for row in rows if filled[row] == "1"] == list(range(20, 50))
    assert len(empty) == min(70, int(30 * share / (1 - share))) and rows == sorted(rows)
    if len(empty) > 4:
        assert min(empty) < 20 and max(empty) > 90


def test_only_training_slices_are_thinned(phantom_ct: PreparedDomain) -> None:
    splits = phantom_ct.source_splits()
    empty = [not splits.train.label(i).any() for i in range(len(splits.train))]
    assert 0 < np.mean(empty) <= SMALL.empty_share
    stacks = [stack for stack in phantom_ct.manifest.stacks if stack.split == "val"]
    assert len(splits.val) == sum(stack.slices for stack in stacks)


# ---------------------------------------------------------------- interrupted, broken


def counted(calls: list[int]) -> object:
    def run(function: object, jobs: Sequence[StackJob]) -> object:
        calls.extend(job.number for job in jobs)
        return in_turn(function, jobs)  # type: ignore[arg-type]

    return run


def test_interrupted_preparation_goes_on_where_it_was(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stops(function: object, jobs: Sequence[StackJob]) -> object:
        for number, note in enumerate(in_turn(function, jobs)):  # type: ignore[arg-type]
            if number == 5:
                raise Stopped
            yield note

    with pytest.raises(Stopped):
        prepare_domain("phantom_ct", catalogue(), tmp_path, mapper=stops)  # type: ignore[arg-type]
    calls: list[int] = []
    domain = prepare_domain("phantom_ct", catalogue(), tmp_path, verify=True, mapper=counted(calls))  # type: ignore[arg-type]
    assert calls == list(range(6, 12))  # the sixth was written before its note was handed on
    assert len(domain.manifest.stacks) == 12
    assert not list(tmp_path.glob("phantom_ct/*.parts"))
    calls.clear()
    prepare_domain("phantom_ct", catalogue(), tmp_path, mapper=counted(calls))  # type: ignore[arg-type]
    assert calls == []


def test_result_does_not_depend_on_the_order_of_the_work(phantom_ct: PreparedDomain, tmp_path: Path) -> None:
    def backwards(function: object, jobs: Sequence[StackJob]) -> object:
        return in_turn(function, list(reversed(jobs)))  # type: ignore[arg-type]

    other = prepare_domain("phantom_ct", catalogue(), tmp_path, mapper=backwards)  # type: ignore[arg-type]
    assert other.manifest == phantom_ct.manifest


def test_torn_note_is_done_again(tmp_path: Path) -> None:
    parts = tmp_path / "phantom_ct" / f"{fingerprint('phantom_ct', catalogue())}.parts"
    parts.mkdir(parents=True)
    note = prepare_stack(StackJob(catalogue(), "phantom_ct", 0, parts))
    assert note.stack is not None
    (parts / "00000.json").write_text("{torn")
    calls: list[int] = []
    prepare_domain("phantom_ct", catalogue(), tmp_path, mapper=counted(calls))  # type: ignore[arg-type]
    assert calls == list(range(12))


def test_broken_stack_is_one_error_that_names_it_and_keeps_what_was_done(chaos: Path, tmp_path: Path) -> None:
    slices = sorted((chaos / "CHAOS" / "CT" / "2" / "DICOM_anon").iterdir())
    whole = slices[2].read_bytes()
    slices[2].write_bytes(whole[: len(whole) - 40])
    with pytest.raises(DataError) as error:
        prepare_domain("chaos_ct", catalogue(chaos), tmp_path / "cache")
    assert len(error.value.problems) == 1 and slices[2].name in str(error.value) and "2" in error.value.problems[0]
    slices[2].write_bytes(whole)
    assert len(prepare_domain("chaos_ct", catalogue(chaos), tmp_path / "cache").manifest.stacks) == 3


def test_broken_stack_is_left_out_and_listed_where_the_sweep_says_so(chaos: Path, tmp_path: Path) -> None:
    mask = sorted((chaos / "CHAOS" / "CT" / "2" / "Ground").iterdir())[1]
    mask.write_bytes(mask.read_bytes()[:30])
    place = catalogue(chaos, broken="skip")
    domain = prepare_domain("chaos_ct", place, tmp_path / "cache")
    assert [stack.subject for stack in domain.manifest.stacks] == ["1", "3"]
    ((name, lines),) = domain.manifest.left_out.items()
    assert name == "2" and mask.name in lines[0]
    record, left_out = domain_records(domain, place.open("chaos_ct").card)
    assert (record["subjects"], record["images"], record["slices"]) == (2, 2, 10)
    assert left_out["image"] == "2" and mask.name in left_out["reason"]
    assert json.dumps(record)
    images = domain.test_split().images  # parts keep the numbers of the list, gaps included
    assert images.native_label(2).any()


def test_nothing_usable_is_an_error_even_where_broken_stacks_are_left_out(chaos: Path, tmp_path: Path) -> None:
    for mask in (chaos / "CHAOS").rglob("*.png"):
        mask.write_bytes(b"")
    with pytest.raises(DataError):
        prepare_domain("chaos_ct", catalogue(chaos, broken="skip"), tmp_path / "cache")


def test_wrong_pairing_is_found_by_the_values_inside_the_label(chaos: Path, tmp_path: Path) -> None:
    masks = sorted((chaos / "CHAOS" / "CT" / "2" / "Ground").iterdir())
    for mask in masks:
        mask.write_bytes(masks[-1].read_bytes())  # files run from the head down: this one is empty
    with pytest.raises(DataError, match="no foreground"):
        prepare_domain("chaos_ct", catalogue(chaos), tmp_path / "cache")


def test_changed_array_fails_verification(phantom_ct: PreparedDomain, tmp_path: Path) -> None:
    domain = prepare_domain("phantom_ct", catalogue(), tmp_path)
    path = domain.folder / "00003-labels.npy"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(StoreError, match="00003-labels"):
        open_prepared(tmp_path, "phantom_ct", domain.manifest.fingerprint, verify=True)
    (domain.folder / "00004-native_labels.npz").unlink()
    with pytest.raises(StoreError, match=r"00004-native_labels\.npz is missing"):
        open_prepared(tmp_path, "phantom_ct", domain.manifest.fingerprint)


def test_torn_native_labels_are_a_store_error(tmp_path: Path) -> None:
    domain = prepare_domain("phantom_ct", catalogue(), tmp_path)
    path = domain.folder / f"{domain.manifest.stacks[-1].part}-native_labels.npz"
    path.write_bytes(path.read_bytes()[:50])
    images = domain.test_split().images
    with pytest.raises(StoreError, match="torn"):
        images.native_label(len(images) - 1)


def test_notes_say_nothing_of_a_header(chaos: Path, tmp_path: Path) -> None:
    write_chaos_ct(chaos / "CHAOS" / "CT" / "5", body(seed=9), patient="DOE^JANE")
    domain = prepare_domain("chaos_ct", catalogue(chaos), tmp_path / "cache")
    for path in domain.folder.rglob("*"):
        assert b"DOE" not in path.read_bytes()


# ---------------------------------------------------------------- fingerprints


def test_fingerprint_covers_window_size_share_and_classes() -> None:
    kinds = [
        catalogue(),
        catalogue(volumes=Volumes(size=48)),
        catalogue(volumes=Volumes(size=32, window=Window(low=0, high=255))),
        catalogue(volumes=Volumes(size=32, empty_share=0.1)),
        catalogue(classes=("liver", "spleen")),
        catalogue(broken="skip"),
    ]
    assert len({fingerprint("phantom_ct", one) for one in kinds}) == len(kinds)


def test_fingerprints_of_photographs_are_those_that_stored_stages_were_trained_on() -> None:
    """Numbers of the release before volumes; whoever changes them throws away what users have trained."""
    assert fingerprint("phantom_clear", Catalogue()) == "ea5ea6f1bd3dadc60371b123"
    assert fingerprint("phantom_clear", Catalogue(classes=("vessel",))) == "ea5ea6f1bd3dadc60371b123"


# ---------------------------------------------------------------- leaks, readiness


def write_lits_patient(root: Path, number: int) -> None:
    write_lits(root / "LiTS" / "Training Batch 2", number, body(slices=12, rows=64, columns=64))


def test_patients_that_two_data_sets_share_are_refused_across_the_split(tmp_path: Path) -> None:
    from .made_up_volumes import write_ircadb

    root = tmp_path / "raw"
    for number in (0, 30):
        write_lits_patient(root, number)
    for number in (1, 2, 20):
        write_ircadb(root / "3Dircadb1" / f"3Dircadb1.{number}", body(seed=number))
    place = catalogue(root)
    domains = [prepare_domain(name, place, tmp_path / "cache") for name in ("lits", "ircadb")]
    found = leak_problems(domains, ["lits"], place, whole=["ircadb"])
    assert len(found) == 1 and "3d-ircadb-01" in found[0] and "lits" in found[0] and "ircadb" in found[0]
    assert leak_problems(domains[:1], ["lits"], place) == []


def test_same_slice_under_another_name_is_a_leak(chaos: Path, tmp_path: Path) -> None:
    one, other = chaos / "CHAOS/CT/1/DICOM_anon", chaos / "CHAOS/CT/3/DICOM_anon"
    source, target = sorted(one.iterdir())[2], sorted(other.iterdir())[2]
    target.write_bytes(source.read_bytes())
    place = catalogue(chaos)
    domain = prepare_domain("chaos_ct", place, tmp_path / "cache")
    (line,) = leak_problems([domain], ["chaos_ct"], place)
    assert source.name in line and "same picture" in line


def test_generated_stacks_have_no_leak(phantom_ct: PreparedDomain, tmp_path: Path) -> None:
    assert leak_problems([phantom_ct], ["phantom_ct"], catalogue(), tmp_path / "memo.json") == []


def test_source_needs_all_splits_and_a_target_its_own(chaos: Path, tmp_path: Path) -> None:
    for patient in ("1", "2"):
        for path in (chaos / "CHAOS" / "CT" / patient).rglob("*"):
            if path.is_file():
                path.unlink()
        for folder in sorted((chaos / "CHAOS" / "CT" / patient).iterdir()):
            folder.rmdir()
        (chaos / "CHAOS" / "CT" / patient).rmdir()
    domain = prepare_domain("chaos_ct", catalogue(chaos), tmp_path / "cache")
    assert readiness_problems(domain, ["targets"]) == []
    found = readiness_problems(domain, ["sources", "targets"])
    assert len(found) == 2 and "train" in found[0] and "val" in found[1]


# ---------------------------------------------------------------- tiles, stress


def test_tile_as_large_as_the_slice_is_the_slice(phantom_ct: PreparedDomain) -> None:
    train = phantom_ct.source_splits().train
    from gkd_bench.config.schema import Augment

    sampler = TileSampler(train, 32, augment=Augment(flips=False, rotations=False), sampling="inside")
    batch = sampler.draw(0, 16)
    slices = {train.image(i).tobytes() for i in range(len(train))}
    grey = (batch.images[:, 0] * 255).round().byte().numpy()
    assert all(tile.tobytes() in slices for tile in grey)


def test_grid_sampling_draws_the_cells_of_the_grid_only(phantom_ct: PreparedDomain) -> None:
    train = phantom_ct.source_splits().train
    from gkd_bench.config.schema import Augment

    sampler = TileSampler(train, 16, augment=Augment(flips=False, rotations=False), sampling="grid")
    cells = {tile.numpy().tobytes() for tile in grid_tiles(train, 16).images}
    drawn = {tile.numpy().tobytes() for tile in sampler.draw(3, 64).images}
    assert drawn <= cells and len(drawn) > 8


def test_grid_tiles_are_thinned_evenly(phantom_ct: PreparedDomain) -> None:
    test = phantom_ct.test_split().images
    tiles = grid_tiles(test, 32, most=10)
    assert len(tiles.images) == 10


def test_stress_bank_takes_slices_with_foreground_of_every_subject(phantom_ct: PreparedDomain) -> None:
    cache = phantom_ct.folder.parent.parent
    stress = Stress(corruptions=("gamma", "noise"), strengths=(1, 3), images=4)
    bank = prepare_stress(phantom_ct, catalogue(), stress, cache)
    clean, noisy = bank.clean, bank.images(("noise", 3))
    assert len(clean) == 4 and len({clean.subject(i) for i in range(4)}) == 2
    assert all(clean.label(i).any() for i in range(4))
    for index in range(4):
        difference = np.abs(noisy.image(index).astype(int) - clean.image(index))
        assert 1 < difference.mean() < 40 and (noisy.label(index) == clean.label(index)).all()


def test_stress_bank_of_a_test_split_is_refused(phantom_ct: PreparedDomain) -> None:
    from gkd_bench.data.stress import choose_images

    with pytest.raises(LeakError):
        choose_images(phantom_ct.test_split().images, 3)  # type: ignore[arg-type]


def test_note_round_trips() -> None:
    note = StackNote(name="a", problems=("b",))
    assert StackNote.model_validate_json(note.model_dump_json()) == note


def test_spacing_is_kept(chaos: Path, tmp_path: Path) -> None:
    images = prepare_domain("chaos_ct", catalogue(chaos), tmp_path / "cache").test_split().images
    assert images.volumes()[0].spacing == pytest.approx(SPACING)


def test_headers_of_volumes_that_are_prepared_are_not_opened_again(
    chaos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    whole = ChaosCt.open
    monkeypatch.setattr(ChaosCt, "open", lambda self, raw: opened.append(raw.name) or whole(self, raw))
    place, cache = catalogue(chaos), tmp_path / "cache"
    assert preflight(["chaos_ct"], place, cache) == {}
    prepare_domain("chaos_ct", place, cache)
    assert sorted(opened) == ["1", "1", "2", "2", "3", "3"]  # once to be checked, once to be prepared
    opened.clear()
    assert preflight(["chaos_ct"], place, cache) == {}
    prepare_domain("chaos_ct", place, cache)
    assert opened == []
