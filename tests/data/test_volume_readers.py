"""Readers of CT and MR on made-up files in the official layouts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from gkd_bench.data.catalogue import open_reader
from gkd_bench.data.domain import RawStack, StackReader
from gkd_bench.data.readers.chaos import ChaosMrVolumes
from gkd_bench.data.readers.ircadb import Ircadb
from gkd_bench.data.splits import SPLITS, read_splits
from gkd_bench.data.volumefiles import Turn, listed
from gkd_bench.data.volumewriters import write_mask_pngs, write_nifti
from gkd_bench.errors import DataError
from gkd_bench.registry import DOMAIN_CLASSES
from tests.data.made_up_volumes import (
    SPACING,
    arrays,
    body,
    write_chaos_ct,
    write_chaos_mr,
    write_ircadb,
    write_lits,
    write_slices,
)

MR = ("chaos_mr", "chaos_mr_t1_out", "chaos_mr_t2")
SLICES = {
    "lits_slices": ("LiTS_slices", "case{}_slice081"),
    "chaos_ct_slices": ("CHAOS_CT_slices", "{}_1009"),
    "chaos_mr_slices": ("CHAOS_MR_T1_slices", "P{}_T1_00028"),
}
BIG = body(6, 60, 80)


def write_three_patients(root: Path) -> None:
    for patient in ("1", "3", "10"):
        write_chaos_ct(root / "CHAOS/Train_Sets/CT" / patient, body())


def write_mr_volumes(root: Path) -> None:
    for number in range(1, 6):
        write_nifti(root / "CHAOS_MR_volumes" / f"img{number}.nii.gz", BIG.values + 1000, SPACING, "RAS")
        write_nifti(root / "CHAOS_MR_volumes" / f"label{number}.nii.gz", BIG.label, SPACING, "RAS")


def write_all_slices(name: str, root: Path) -> None:
    folder, pattern = SLICES[name]
    subjects = read_splits("chaos_mr" if name == "chaos_mr_slices" else name)
    write_slices(root / folder, [pattern.format(subject) for subject in subjects])


WRITERS: dict[str, Callable[[Path], None]] = {
    "chaos_ct": write_three_patients,
    **dict.fromkeys(MR, lambda root: write_chaos_mr(root / "CHAOS/Train_Sets/MR/13", body(classes=4))),
    "chaos_mr_volumes": write_mr_volumes,
    "lits": lambda root: write_lits(root / "LiTS" / "Training Batch 2", 30, BIG),
    "ircadb": lambda root: write_ircadb(root / "3Dircadb1" / "3Dircadb1.7", body(12)),
    **{name: lambda root, name=name: write_all_slices(name, root) for name in SLICES},  # type: ignore[misc]
}


def reader_of(name: str, root: Path) -> StackReader:
    return cast(StackReader, open_reader(name, root))


def written(name: str, root: Path) -> StackReader:
    WRITERS[name](root)
    return reader_of(name, root)


@pytest.mark.parametrize("name", WRITERS)
def test_official_layout_has_no_problem_and_reads_with_its_masks(name: str, tmp_path: Path) -> None:
    reader = written(name, tmp_path)
    assert reader.card.name == name and reader.card.classes == DOMAIN_CLASSES[name]
    assert reader.problems(deep=True) == []
    images = reader.images()
    assert len({raw.name for raw in images}) == len(images) > 0
    for raw in images[:2]:
        stack = reader.open(raw)
        planes = list(reader.planes(raw, stack))
        assert len(planes) == stack.shape[0] and raw.people
        assert {int(number) for plane in planes for number in np.unique(plane.label)} == {
            *range(len(reader.card.classes) + 1)
        } or name in SLICES
        for plane in planes:
            assert plane.values.dtype == np.float32 and plane.label.dtype == np.uint8
            assert plane.values.flags.c_contiguous and plane.label.flags.c_contiguous


@pytest.mark.parametrize("name", WRITERS)
def test_every_split_has_a_subject_and_files_are_fingerprinted(name: str, tmp_path: Path) -> None:
    reader = written(name, tmp_path)
    assert set(reader.splits().values()) == set(SPLITS)
    content = reader.content(lambda path: path.name)
    assert len(content) == sum(len(raw.files()) for raw in reader.images())


@pytest.mark.parametrize("name", WRITERS)
def test_folder_without_a_patient_or_no_folder_is_a_problem(name: str, tmp_path: Path) -> None:
    reader = reader_of(name, tmp_path)
    assert any("folder is missing" in line for line in reader.problems())
    (tmp_path / reader.card.folder).mkdir()
    (line,) = reader.problems()
    assert "no patient was found" in line
    with pytest.raises(DataError, match="officially obtained"):
        reader.require()


@pytest.mark.parametrize("name", WRITERS)
def test_missing_mask_is_named_with_its_subject(name: str, tmp_path: Path) -> None:
    reader = written(name, tmp_path)
    raw = reader.images()[0]
    raw.labels[0].unlink()
    (line,) = reader_of(name, tmp_path).problems()
    assert f"subject {raw.subject}" in line and str(raw.labels[0].parent) in line


@pytest.mark.parametrize("name", WRITERS)
def test_torn_image_is_named_with_its_subject(name: str, tmp_path: Path) -> None:
    reader = written(name, tmp_path)
    raw = reader.images()[0]
    path = raw.images[-1]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (line,) = reader.problems(deep=True)
    assert f"subject {raw.subject}" in line and str(path) in line


@pytest.mark.parametrize("name", WRITERS)
def test_link_out_of_the_data_set_is_refused(name: str, tmp_path: Path) -> None:
    reader = written(name, tmp_path)
    path = reader.images()[0].images[0]
    outside = tmp_path / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)
    (line,) = reader.problems()
    assert "a link out of" in line and str(path) in line


# ---------------------------------------------------------------- CHAOS


@pytest.mark.parametrize("below", ["CHAOS/CT/3", "CHAOS/Train_Sets/CT/3"])
def test_chaos_ct_with_one_patient_alone_works_in_both_layouts(below: str, tmp_path: Path) -> None:
    made = body()
    write_chaos_ct(tmp_path / below, made, names="IMG-0004-{:05d}.dcm")
    reader = reader_of("chaos_ct", tmp_path)
    (raw,) = reader.images()
    assert reader.problems() == [] and reader.splits()[raw.subject] == "test"
    assert raw.people == {"chaos_ct/3", "chaos_ct/unknown"}
    values, label = arrays(reader.open(raw))
    assert (values == made.values).all() and (label == made.label).all()


def test_wrong_pairs_are_caught_by_the_values_inside_the_mask(tmp_path: Path) -> None:
    made = body()
    write_chaos_ct(tmp_path / "CHAOS/CT/3", made)
    write_mask_pngs(tmp_path / "CHAOS/CT/3/Ground", made.label[:, ::-1, ::-1], (255,))
    (line,) = reader_of("chaos_ct", tmp_path).problems()
    assert "3: mean of the values inside the label" in line and "do not belong together" in line


def test_unlabelled_and_unknown_folders(tmp_path: Path) -> None:
    write_chaos_ct(tmp_path / "CHAOS/CT/5", body())
    (tmp_path / "CHAOS/CT/copy of 5").mkdir()
    shutil.copytree(tmp_path / "CHAOS/CT/5/DICOM_anon", tmp_path / "CHAOS/CT/7/DICOM_anon")
    reader = reader_of("chaos_ct", tmp_path)
    assert [raw.subject for raw in reader.images()] == ["5", "7"]
    (line,) = reader.problems()
    assert "subject 7" in line and "Ground/*.png: file is missing" in line


def test_sequences_of_chaos_mr_share_people_and_splits(tmp_path: Path) -> None:
    WRITERS["chaos_mr"](tmp_path)
    readers = [reader_of(name, tmp_path) for name in MR]
    assert {raw.people for reader in readers for raw in reader.images()} == {frozenset({"chaos_mr/13"})}
    assert len({reader.images()[0].images[0] for reader in readers}) == 3
    others = [reader_of("chaos_mr_slices", tmp_path), reader_of("chaos_mr_volumes", tmp_path)]
    homes = [reader.splits() for reader in (*readers, *others)]
    for patient in ("13", "15"):
        assert {home[patient] for home in homes} == {"test"}
    assert all(home == homes[0] for home in homes[:4])


def test_mr_levels_are_organs_with_tolerance_and_others_are_errors(tmp_path: Path) -> None:
    reader = written("chaos_mr", tmp_path)
    (raw,) = reader.images()
    expected = arrays(reader.open(raw))[1]
    path = raw.labels[2]
    levels = np.array(Image.open(path))
    levels[levels == 63] = 57
    Image.fromarray(levels).save(path)
    assert (arrays(reader.open(raw))[1] == expected).all()
    levels[levels == 57] = 95
    Image.fromarray(levels).save(path)
    (line,) = reader.problems()
    assert "subject 13" in line and str(path) in line and "95" in line and "55-70" in line


def test_mr_volumes_name_the_patients_that_are_known(tmp_path: Path) -> None:
    reader = written("chaos_mr_volumes", tmp_path)
    assert [raw.subject for raw in reader.images()] == ["v1", "13", "15", "v4", "15"]
    assert reader.images()[2].people == {"chaos_mr/15"}
    maybe = {f"chaos_mr/{patient}" for patient in ChaosMrVolumes.maybe["v1"]}
    assert reader.images()[0].people == maybe and not maybe & {"chaos_mr/13", "chaos_mr/15"}
    assert {f"chaos_mr/{one}" for one in read_splits("chaos_mr")} > maybe


# ---------------------------------------------------------------- LiTS, 3D-IRCADb-01


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "LAS", "RPS", "LPI"])
def test_lits_is_turned_by_anatomy_whatever_its_header_says(axcodes: str, tmp_path: Path) -> None:
    write_lits(tmp_path / "LiTS" / "Training Batch 1", 0, BIG, axcodes)
    for kind in ("volume", "segmentation"):  # the same voxels with a blank header
        path = tmp_path / "LiTS" / "Training Batch 1" / f"{kind}-0.nii"
        data = bytearray(path.read_bytes())
        header = np.frombuffer(data, np.float32, 12, 280)
        data[280:328] = np.eye(4, dtype=np.float32)[:3].tobytes()
        assert header.size == 12
        path.write_bytes(data)
    reader = reader_of("lits", tmp_path)
    (raw,) = reader.images()
    stack = reader.open(raw)
    values, label = arrays(stack)
    step = -1 if axcodes[2] == "I" else 1  # a blank header does not tell the head from the feet
    assert (values[::step] == BIG.values).all() and (label[::step] == BIG.label).all()
    assert stack.spacing is None and "by anatomy" in stack.remark


def test_lits_tumour_is_liver_and_other_labels_are_errors(tmp_path: Path) -> None:
    reader = written("lits", tmp_path)
    (raw,) = reader.images()
    assert reader.open(raw).spacing == pytest.approx(SPACING)
    assert arrays(reader.open(raw))[1].max() == 1
    write_nifti(raw.labels[0], BIG.label * np.uint8(3), SPACING)
    (line,) = reader.problems()
    assert "subject 30" in line and "levels such as 3" in line


def test_lits_layouts_are_flat_gzipped_or_the_decathlons(tmp_path: Path) -> None:
    folder = tmp_path / "LiTS"
    write_lits(folder, 3, BIG)
    write_nifti(folder / "volume-4.nii.gz", BIG.values, SPACING)
    write_nifti(folder / "segmentation-4.nii.gz", BIG.label, SPACING)
    upside_down = BIG.values[:, ::-1].copy()
    for number, below in ((5, folder / "Task03_Liver"), (6, folder)):
        write_nifti(below / "imagesTr" / f"liver_{number}.nii.gz", upside_down, SPACING, "RAS")
        write_nifti(below / "labelsTr" / f"liver_{number}.nii.gz", BIG.label[:, ::-1].copy(), SPACING, "RAS")
    reader = reader_of("lits", tmp_path)
    assert [raw.subject for raw in reader.images()] == ["3", "4", "5", "6"]
    assert reader.problems() == []
    values, _ = arrays(reader.open(reader.images()[2]))
    assert (values == upside_down).all()  # the Decathlon's headers are believed


def test_people_of_ircadb_are_marked_in_lits_and_train_there(tmp_path: Path) -> None:
    for number in (27, 28, 48, 49):
        write_lits(tmp_path / "LiTS", number, BIG)
    people = [raw.people for raw in reader_of("lits", tmp_path).images()]
    assert ["3d-ircadb-01" in one for one in people] == [False, True, True, False]
    assert all("lits/unknown-case" in one for one in people) and "lits/28" in people[1]
    assert {read_splits("lits")[str(number)] for number in range(28, 49)} == {"train"}


def test_ircadb_pairs_by_number_in_the_name(tmp_path: Path) -> None:
    reader = written("ircadb", tmp_path)
    (raw,) = reader.images()
    values, label = arrays(reader.open(raw))
    made = body(12)
    assert (values == made.values).all() and (label == made.label).all()
    assert isinstance(reader, Ircadb) and raw.people == {"3d-ircadb-01", "3d-ircadb-01/7"}


# ---------------------------------------------------------------- loose slices


def test_loose_slices_are_one_stack_for_each_patient(tmp_path: Path) -> None:
    names = ["case001_slice081", "case001_slice095", "case002_slice010"]
    write_slices(tmp_path / "LiTS_slices", names, "jpg")
    reader = reader_of("lits_slices", tmp_path)
    assert [(raw.subject, len(raw.images)) for raw in reader.images()] == [("001", 2), ("002", 1)]
    stack = reader.open(reader.images()[0])
    assert stack.shape == (2, 24, 32) and stack.spacing is None
    assert any("subject 010 of the split file has no image" in line for line in reader.problems())


def test_slice_without_its_mask_or_mask_without_its_slice_is_a_problem(tmp_path: Path) -> None:
    reader = written("chaos_ct_slices", tmp_path)
    folder = tmp_path / "CHAOS_CT_slices"
    (folder / "masks" / "101_1009.png").unlink()
    (folder / "images" / "102_1009.png").unlink()
    first, second = reader.problems()
    assert "subject 101" in first and "masks/101_1009.png: file is missing" in first
    assert "subject 102" in second and "images/102_1009.png: file is missing" in second


def test_picture_whose_name_tells_no_subject_is_a_problem(tmp_path: Path) -> None:
    reader = written("chaos_mr_slices", tmp_path)
    for name in ("extra.png", ".hidden.png", "notes.txt"):
        shutil.copy(reader.images()[0].images[0], tmp_path / "CHAOS_MR_T1_slices" / "images" / name)
    (line,) = reader.problems()
    assert "extra.png: its name tells no subject" in line


def test_slices_of_one_patient_have_one_size(tmp_path: Path) -> None:
    reader = written("chaos_ct_slices", tmp_path)
    path = tmp_path / "CHAOS_CT_slices" / "images" / "101_2000.png"
    for kind in ("images", "masks"):
        Image.new("L", (9, 8)).save(path.parents[1] / kind / path.name)
    (line,) = {line for line in reader.problems() if "images" in line}
    assert "subject 101" in line and "9x8 pixels" in line


def test_listed_folder_without_files_gives_a_file_that_is_missing(tmp_path: Path) -> None:
    (path,) = listed(tmp_path, "*.dcm")
    assert path == tmp_path / "*.dcm" and not path.exists()


def test_turn_keeps_what_belongs_together() -> None:
    assert Turn(transpose=True).sizes((1, 2, 3)) == (1, 3, 2)
    assert list(Turn(reverse=True).order(3)) == [2, 1, 0]


def test_no_data_root_is_one_plain_problem() -> None:
    reader: Any = open_reader("chaos_ct")
    assert reader.problems() == ["no data root is set (data.root in the sweep file, or GKD_DATA_ROOT)"]
    assert RawStack("a", "b").files() == ()
