"""CHAOS: CT of liver donors and MR of other people, official folders; and five of the MR volumes as NIfTI."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from gkd_bench.data.dicom import dicom
from gkd_bench.data.domain import DomainCard, RawStack, Stack
from gkd_bench.data.nifti import nifti
from gkd_bench.data.readers.volumes import Examinations
from gkd_bench.data.volumefiles import bands, black_and_white, listed, pair, pictures

SOURCE = "zenodo.org, doi 10.5281/zenodo.3362844, CHAOS_Train_Sets.zip"
TERMS = "Creative Commons, share alike, non-commercial (CC BY-NC-SA 4.0 as most sources say; read the bundled text)"
ORGANS = ("liver", "right_kidney", "left_kidney", "spleen")
ORGAN_LEVELS = bands((0, 15, 0), (55, 70, 1), (110, 135, 2), (175, 200, 3), (240, 255, 4))


class ChaosCt(Examinations):
    """CT/<id>/DICOM_anon/*.dcm, Ground/liver_GT_*.png. Slices and masks are paired by file name, never by place."""

    inside = (60.0, 200.0)
    card = DomainCard(
        name="chaos_ct",
        title="CHAOS CT",
        source=SOURCE,
        terms=TERMS,
        folder="CHAOS",
        subjects="the patient: name of the folder",
        classes=("liver",),
        modality="ct",
    )

    def images(self) -> list[RawStack]:
        """One stack for each patient's folder, CHAOS/CT/<id> or CHAOS/Train_Sets/CT/<id>."""
        return [
            RawStack(
                patient,
                patient,
                listed(folder / "DICOM_anon", "*.dcm"),
                listed(folder / "Ground", "*.png"),
                frozenset({f"chaos_ct/{patient}", "chaos_ct/unknown"}),
            )
            for patient, folder in self.patients("Train_Sets/CT", "CT").items()
        ]

    def stack(self, raw: RawStack) -> Stack:
        """A DICOM series and its pictures of masks."""
        return pair(dicom(raw.images), pictures(raw.labels), black_and_white, by_number=True)


class ChaosMr(Examinations):
    """T1 in phase: MR/<id>/T1DUAL/DICOM_anon/InPhase/*.dcm, T1DUAL/Ground/*.png, four organs."""

    split_name = "chaos_mr"
    sequence, phase = "T1DUAL", "InPhase"
    card = DomainCard(
        name="chaos_mr",
        title="CHAOS MR T1 in phase",
        source=SOURCE,
        terms=TERMS,
        folder="CHAOS",
        subjects="the patient: name of the folder",
        classes=ORGANS,
        modality="mr",
        intensity="T1, in phase",
    )

    def images(self) -> list[RawStack]:
        """One stack for each patient's folder, CHAOS/MR/<id> or CHAOS/Train_Sets/MR/<id>."""
        return [
            RawStack(
                patient,
                patient,
                listed(folder / self.sequence / "DICOM_anon" / self.phase, "*.dcm"),
                listed(folder / self.sequence / "Ground", "*.png"),
                frozenset({f"chaos_mr/{patient}"}),
            )
            for patient, folder in self.patients("Train_Sets/MR", "MR").items()
        ]

    def stack(self, raw: RawStack) -> Stack:
        """A DICOM series and its pictures of masks."""
        return pair(dicom(raw.images), pictures(raw.labels), ORGAN_LEVELS, by_number=True)


class ChaosMrT1Out(ChaosMr):
    """T1 out of phase: MR/<id>/T1DUAL/DICOM_anon/OutPhase/*.dcm, with the same masks as in phase."""

    phase = "OutPhase"
    card = replace(ChaosMr.card, name="chaos_mr_t1_out", title="CHAOS MR T1 out of phase", intensity="T1, out of phase")


class ChaosMrT2(ChaosMr):
    """T2: MR/<id>/T2SPIR/DICOM_anon/*.dcm, T2SPIR/Ground/*.png."""

    sequence, phase = "T2SPIR", ""
    card = replace(ChaosMr.card, name="chaos_mr_t2", title="CHAOS MR T2", intensity="T2 SPIR, fat suppressed")


class ChaosMrVolumes(Examinations):
    """Five MR volumes, resampled: img1.nii.gz ... img5.nii.gz with label1.nii.gz ... label5.nii.gz."""

    patients_of = ("v1", "13", "15", "v4", "15")
    """Patient of each volume, where that is known: by their T1 slices in CHAOS_MR_T1_slices, and by the shape of the liver."""

    maybe: ClassVar[dict[str, tuple[str, ...]]] = {
        "v1": ("5", "10", "20", "37", "39"),
        "v4": (
            "1",
            "2",
            "3",
            "5",
            "8",
            "10",
            "13",
            "19",
            "20",
            "21",
            "22",
            "31",
            "32",
            "33",
            "34",
            "36",
            "37",
            "38",
            "39",
        ),
    }
    """Who the others may be: v1 is T1 and matches none of the patients of whom there are slices; v4 is T2, which cannot be
    matched with slices in T1, and so may be any of the labelled patients but 15."""

    card = DomainCard(
        name="chaos_mr_volumes",
        title="CHAOS MR, five volumes",
        source=SOURCE,
        terms=TERMS,
        folder="CHAOS_MR_volumes",
        subjects="the patient, by a table: volumes 3 and 5 are one person",
        classes=("liver",),
        modality="mr",
        intensity="volumes 1 to 3 T1, 4 and 5 T2-SPIR, resampled to 1.6 x 1.6 x 5.5 mm",
    )

    def images(self) -> list[RawStack]:
        """Those of the five volumes that have a file."""
        found = []
        for number, subject in enumerate(self.patients_of, start=1):
            image, label = (self.folder / f"{kind}{number}.nii.gz" for kind in ("img", "label"))
            ids = self.maybe.get(subject, (subject,))
            if image.is_file() or label.is_file():
                people = frozenset(f"chaos_mr/{one}" for one in ids)
                found.append(RawStack(image.name.partition(".")[0], subject, (image,), (label,), people))
        return found

    def stack(self, raw: RawStack) -> Stack:
        """Two NIfTI files, each of which knows how it lies."""
        return pair(nifti(raw.images[0]), nifti(raw.labels[0]), bands((0, 0, 0), (1, 1, 1)))
