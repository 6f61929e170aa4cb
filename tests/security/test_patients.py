"""Who a patient is stays in the files it came in: nothing that is written or logged names one."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gkd_bench import sweep
from gkd_bench.config.data import Data, Folder, Split, Stress
from gkd_bench.data.catalogue import Catalogue, open_reader
from gkd_bench.data.check import check_domains
from gkd_bench.data.digests import FileDigests, file_digest, memo_file
from gkd_bench.data.domain import PhotographReader
from gkd_bench.data.leaks import leak_problems
from gkd_bench.data.nifti import read_header
from gkd_bench.data.prepare import fingerprint, prepare_domain
from gkd_bench.data.readers.folder import FolderDomain, numbered, open_folder
from gkd_bench.data.statement import domain_records
from gkd_bench.data.stress import prepare_stress
from gkd_bench.data.volumewriters import write_dicom_series, write_mask_pngs, write_nifti
from gkd_bench.export.mask_file import mask_bytes

from ..data.made_up_volumes import body
from ..stages.lab import TINY

WHO = "DOE_Jane"
SPACING = (3.0, 1.5, 2.0)
SCALE = {"scale": {"rule": "fov_width", "value": 48}}


def traces(folder: Path) -> Iterator[str]:
    """Files below a folder whose name or bytes name the patient."""
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if WHO.encode() in content or WHO in str(path.relative_to(folder)):
            yield str(path)


def photographs(folder: Path, count: int = 6) -> Path:
    """Photographs and masks whose names, and a text inside, are those of patients."""
    reader = open_reader("phantom_clear")
    assert isinstance(reader, PhotographReader)
    info = PngInfo()
    info.add_text("PatientName", WHO)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number, raw in enumerate(reader.images()[:count]):
        pixels, name = reader.read(raw), f"{WHO} {number // 2}_{'LR'[number % 2]}.png"
        Image.fromarray(pixels.rgb).save(folder / "images" / name, pnginfo=info)
        Image.fromarray(pixels.label.astype(np.uint8) * np.uint8(255)).save(folder / "masks" / name, pnginfo=info)
    return folder


def volumes(folder: Path) -> Path:
    """DICOM series in folders of the patients' names, their headers full of them too."""
    tags = dict.fromkeys(("PatientName", "PatientID", "StudyDescription", "AccessionNumber", "InstitutionName"), WHO)
    for number in range(4):
        made = body(seed=number)
        write_dicom_series(folder / f"{WHO}{number}" / "DICOM", made.values, SPACING, patient=WHO, tags=tags)
        write_mask_pngs(folder / f"{WHO}{number}" / "Ground", made.label, (255,))
    return folder


def slices(folder: Path) -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(8):
        made, name = body(2, seed=number), f"{WHO}{number // 2}_{number % 2}.png"
        Image.fromarray(np.clip(made.values[1], 0, 255).astype(np.uint8)).save(folder / "images" / name)
        Image.fromarray(made.label[1] * np.uint8(255)).save(folder / "masks" / name)
    return folder


def table(folder: Path) -> Path:
    photographs(folder)
    lines = [f"{path.name},{path.name[:10]}" for path in sorted((folder / "images").iterdir())]
    (folder / "who.csv").write_text("\n".join(["image,subject", *lines]))
    return folder


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "photographs": (photographs, {"subject": r"^(?P<subject>.*)_[LR]$"}),
    "photographs with a table": (table, {"table": "who.csv"}),
    "photographs alone": (photographs, {}),
    "slices": (slices, {"kind": "slice", "subject": r"^(?P<subject>.*)_\d$"}),
    "volumes": (volumes, {"kind": "volume", "modality": "ct", "images": "{name}/DICOM", "masks": "{name}/Ground"}),
}


def catalogue(folder: Path, block: dict[str, Any], broken: str = "stop") -> Catalogue:
    data = {
        "domains": ["mine"],
        "folders": {"mine": {"path": str(folder), **block}},
        "broken": broken,
        "prepare": SCALE,
    }
    return Catalogue.of(Data.model_validate({**data, "volumes": {"size": 32}}))


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_data_of_ones_own_name_nobody(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    write, block = KINDS[kind]
    place, cache = catalogue(write(tmp_path / "clinic"), block), tmp_path / "cache"
    domain = prepare_domain("mine", place, cache, verify=True)
    prepare_stress(domain, place, Stress(corruptions=("gamma",), strengths=(1,)), cache)
    leaks = leak_problems([domain], ["mine"], place, memo_file(cache))
    report = check_domains(["mine"], place, tmp_path / "out")
    assert report.ok and leaks == []
    assert memo_file(cache).is_file() and (tmp_path / "out" / "mine.png").is_file()
    assert [*traces(cache), *traces(tmp_path / "out")] == []
    said = [
        caplog.text,
        *capfd.readouterr(),
        report.text(),
        json.dumps(domain_records(domain, place.open("mine").card)),
    ]
    assert [text for text in said if WHO in text] == []


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_change_nothing_but_names(kind: str, tmp_path: Path) -> None:
    """Same order, same splits, same pixels; other fingerprints, so that what was prepared by name is not taken."""
    write, block = KINDS[kind]
    folder = write(tmp_path / "clinic")
    hidden, kept = (catalogue(folder, {**block, **more}) for more in ({}, {"names": "kept"}))
    first, second = (prepare_domain("mine", place, tmp_path / "cache") for place in (hidden, kept))
    assert first.manifest.fingerprint != second.manifest.fingerprint
    pairs = list(zip(first.manifest.everything(), second.manifest.everything(), strict=True))
    assert all(one.split == two.split and one.size == two.size for one, two in pairs)
    assert all(WHO in two.name and WHO in two.subject for _, two in pairs)
    subjects = {(one.subject, two.subject) for one, two in pairs}
    assert len(subjects) == len({one for one, _ in subjects}) == len({two for _, two in subjects})
    assert {one.subject for one, _ in pairs} == {f"subject_{n:03d}" for n in range(1, len(subjects) + 1)}
    assert np.array_equal(first.test_split(True).images.image(0), second.test_split(True).images.image(0))


def test_numbers_are_places_by_name_and_sort_like_names() -> None:
    names = [f"n{number:05d}" for number in range(1200)]
    found = numbered("image", names)
    assert found["n00011"] == "image_0012" and sorted(found.values()) == [*found.values()]
    assert numbered("subject", ["a"]) == {"a": "subject_001"}


def test_official_data_sets_keep_their_official_names(tmp_path: Path) -> None:
    place = Catalogue()
    assert fingerprint("phantom_clear", place) == "ea5ea6f1bd3dadc60371b123"
    reader = open_reader("phantom_clear")
    assert not reader.hides_names and reader.written(["a: torn"]) == ("a: torn",)


def test_who_has_the_files_is_told_which_of_them_are_broken_and_nobody_else(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "clinic", count=8)
    (folder / "images" / f"{WHO} 1_L.png").write_bytes(b"torn")
    block = {"subject": r"^(?P<subject>.*)_[LR]$"}
    place = catalogue(folder, block, broken="skip")
    report = check_domains(["mine"], place, tmp_path / "out")
    assert f"{WHO} 1_L.png" in report.text()
    assert "shown but not written here" in (tmp_path / "out" / "check.txt").read_text()
    domain = prepare_domain("mine", place, tmp_path / "cache")
    (left_out,) = [one for one in domain_records(domain, place.open("mine").card) if one["record"] == "left_out"]
    assert left_out["image"] == "image_003" and "`gkd-bench data check` names them" in left_out["reason"]
    assert [*traces(tmp_path / "cache"), *traces(tmp_path / "out")] == []


def test_broken_volumes_are_left_out_by_number(tmp_path: Path) -> None:
    folder = volumes(tmp_path / "clinic")
    for file in (folder / f"{WHO}2" / "DICOM").iterdir():
        file.write_bytes(file.read_bytes()[:400])
    domain = prepare_domain("mine", catalogue(folder, KINDS["volumes"][1], broken="skip"), tmp_path / "cache")
    assert [*domain.manifest.left_out] == ["volume_003"]
    assert [*traces(tmp_path / "cache")] == []


def test_remembered_digests_name_no_file_and_old_ones_are_cleaned(tmp_path: Path) -> None:
    memo, file = tmp_path / "digests.json", tmp_path / f"{WHO}.png"
    file.write_bytes(b"x")
    status = file.stat()
    memo.write_text(json.dumps({f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}": "remembered"}))
    digests = FileDigests(memo)
    assert digests(file) == "remembered"  # what was known is not hashed again
    digests.save()
    assert WHO.encode() not in memo.read_bytes() and FileDigests(memo)(file) == "remembered"
    assert FileDigests()(file) == file_digest(file)


def test_masks_of_volumes_say_nothing_that_the_volume_said(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "v.nii.gz", body().values, SPACING)
    image = nib.load(path)
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = WHO.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", WHO.encode()))
    nib.save(image, path)
    header = read_header(path)
    assert WHO.encode() in gzip.decompress(path.read_bytes())
    made = gzip.decompress(mask_bytes(header, np.zeros(header.shape, np.uint8)))
    assert WHO.encode() not in made


def test_subjects_that_a_table_puts_into_splits_are_numbered_too(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "clinic")
    names = sorted(path.name for path in (folder / "images").iterdir())
    splits = ("train", "train", "val", "val", "test", "test")
    rows = [f"{name},{name[:10]},{split}" for name, split in zip(names, splits, strict=True)]
    (folder / "who.csv").write_text("\n".join(["image,subject,split", *rows]))
    reader = open_folder("mine", Folder.model_validate({"path": str(folder), "table": "who.csv"}), None, None)
    assert isinstance(reader, FolderDomain) and reader.problems() == []
    assert reader.splits() == {"subject_001": "train", "subject_002": "val", "subject_003": "test"}
    assert reader.block.split == Split()


@pytest.mark.slow
def test_a_whole_sweep_writes_and_logs_no_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.chdir(tmp_path)
    photographs(tmp_path / "data" / "clinic", count=8)
    (tmp_path / "data" / "clinic" / "images" / f"{WHO} 3_R.png").write_bytes(b"torn")
    mine = {"path": "clinic", "subject": r"^(?P<subject>.*)_[LR]$", "split": {"train": 0.5, "val": 0.25, "test": 0.25}}
    settings = json.loads(json.dumps(TINY)) | {
        "task": "segmentation",
        "methods": {"controls": []},
        "compute": {"engine": "inprocess"},
        "pairs": {"sources": ["mine"], "targets": "all"},
    }
    settings["data"] |= {
        "root": "data", "domains": ["mine"], "classes": ["vessel"], "folders": {"mine": mine}, "broken": "skip",
        "stress": {"corruptions": ["gamma"], "strengths": [1]},
    }  # fmt: skip
    Path("own.yaml").write_text(yaml.safe_dump(settings))
    assert sweep.main(["own.yaml"]) == 0
    out = tmp_path / "results" / "tiny"
    assert "image_0" in (out / "index.html").read_text() and list((out / "overlays").glob("*image_0*"))
    assert [*traces(tmp_path / ".gkd_store"), *traces(tmp_path / "results")] == []
    said = [caplog.text, *capfd.readouterr()]
    assert [text for text in said if WHO in text] == []
