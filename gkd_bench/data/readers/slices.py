"""Folders of loose 8-bit slices, ``images`` and ``masks`` with the same names: one stack for each patient."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from gkd_bench.data.domain import DomainCard, RawStack, Stack
from gkd_bench.data.readers.volumes import Examinations
from gkd_bench.data.volumefiles import PICTURES, black_and_white, in_order, pair, pictures


class LooseSlices(Examinations):
    """Pictures that somebody took out of volumes; they lie in the one orientation, and neighbours are missing.

    Attributes:
        name: what a file's name without its ending looks like, with a group ``subject``.
    """

    name: ClassVar[str]

    def images(self) -> list[RawStack]:
        """One stack for each subject, its slices in the order of their names."""
        images, masks = (self._files(kind) for kind in ("images", "masks"))
        subjects: dict[str, list[str]] = {}
        for stem in sorted(images.keys() | masks.keys()):
            if match := re.fullmatch(self.name, stem):
                subjects.setdefault(match["subject"], []).append(stem)
        return [
            RawStack(
                subject,
                subject,
                self._paths("images", stems, images),
                self._paths("masks", stems, masks),
                self.people(subject),
            )
            for subject, stems in sorted(subjects.items())
        ]

    def people(self, subject: str) -> frozenset[str]:
        """Names under which other domains may know the patient."""
        raise NotImplementedError

    def stack(self, raw: RawStack) -> Stack:
        """Pictures of slices and of masks."""
        return pair(pictures(raw.images), pictures(raw.labels), black_and_white, by_number=True)

    def list_problems(self) -> list[str]:
        """Also one line per picture whose name tells no subject."""
        strange = [
            path
            for kind in ("images", "masks")
            for stem, path in self._files(kind).items()
            if not re.fullmatch(self.name, stem)
        ]
        return super().list_problems() + [f"{path}: its name tells no subject; remove or rename it" for path in strange]

    def _files(self, kind: str) -> dict[str, Path]:
        folder = self.folder / kind
        found = folder.iterdir() if folder.is_dir() else []
        return {
            path.stem: path for path in in_order([*found]) if path.suffix.lower() in PICTURES and path.name[0] != "."
        }

    def _paths(self, kind: str, stems: list[str], files: dict[str, Path]) -> tuple[Path, ...]:
        return tuple(files.get(stem, self.folder / kind / f"{stem}.png") for stem in stems)


class LitsSlices(LooseSlices):
    """``case001_slice081``: 256 x 256 slices that all show liver."""

    complete = True
    inside = (0.0, 255.0)
    name = r"case(?P<subject>\d+)_slice\d+"
    card = DomainCard(
        name="lits_slices",
        title="LiTS, loose slices",
        source="medicaldecathlon.com, Task03_Liver; slices of it are passed on under the same terms",
        terms="CC BY-SA 4.0",
        folder="LiTS_slices",
        subjects="the case in the file name, which is the order of files and not the number in LiTS",
        classes=("liver",),
        modality="ct",
        intensity="8 bits: Hounsfield units clipped to 0 ... 255",
    )

    def people(self, subject: str) -> frozenset[str]:
        """Anybody of LiTS, and so anybody of 3D-IRCADb-01."""
        return frozenset({"lits/unknown-case", "3d-ircadb-01"})


class ChaosCtSlices(LooseSlices):
    """``101_1009``: 512 x 512 slices of four patients."""

    complete = True
    name = r"(?P<subject>\d{3})_\d+"
    card = DomainCard(
        name="chaos_ct_slices",
        title="CHAOS CT, loose slices",
        source="slices of CHAOS, zenodo.org, doi 10.5281/zenodo.3362844",
        terms="CC BY-NC-SA 4.0",
        folder="CHAOS_CT_slices",
        subjects="the first three digits of the file name, which are no number of CHAOS",
        classes=("liver",),
        modality="grey",
        intensity="8-bit wide window, HU lost",
    )

    def people(self, subject: str) -> frozenset[str]:
        """Anybody of CHAOS CT."""
        return frozenset({"chaos_ct/unknown"})


class ChaosMrSlices(LooseSlices):
    """``P13_T1_00028``: 256 x 256 slices of T1 MR, 15 patients under their numbers in CHAOS."""

    split_name = "chaos_mr"
    name = r"P(?P<subject>\d+)_T1_\d+"
    card = DomainCard(
        name="chaos_mr_slices",
        title="CHAOS MR T1, loose slices",
        source="slices of CHAOS, zenodo.org, doi 10.5281/zenodo.3362844",
        terms="CC BY-NC-SA 4.0",
        folder="CHAOS_MR_T1_slices",
        subjects="the patient: the number after P",
        classes=("liver",),
        modality="mr",
        intensity="8 bits, T1",
    )

    def people(self, subject: str) -> frozenset[str]:
        """The patient of the official set."""
        return frozenset({f"chaos_mr/{subject}"})
