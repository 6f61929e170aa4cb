"""LiTS: 131 CT volumes of livers with tumours from many hospitals, as released or as Task03 of the Decathlon."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from gkd_bench.data.domain import DomainCard, RawStack, Stack
from gkd_bench.data.nifti import nifti, read_header
from gkd_bench.data.orientation import find_turn, turned
from gkd_bench.data.readers.volumes import Examinations
from gkd_bench.data.volumefiles import bands, pair, read_planes

RELEASED = ("Training Batch 1", "Training Batch 2", ".")
DECATHLON = ("Task03_Liver", ".")
LIVER = bands((0, 0, 0), (1, 2, 1))
IRCAD = range(28, 49)  # of 3D-IRCADb-01; reports differ on the ends, so both count
LOOKED_AT = 48


class Lits(Examinations):
    """volume-<n>.nii with segmentation-<n>.nii, 1 = liver, 2 = tumour in it, both of which count as liver.

    The headers of the release are not believed: those of 28-47 are blank, and volumes lie differently in the plane. The
    anatomy tells instead. Those of the Decathlon's copy (imagesTr/liver_<n>.nii.gz, labelsTr) are.
    """

    inside = (0.0, 250.0)  # fat livers before contrast to healthy ones after it
    card = DomainCard(
        name="lits",
        title="LiTS",
        source="competitions.codalab.org/competitions/17094, or medicaldecathlon.com, Task03_Liver",
        terms="CC BY-NC-ND 4.0 as commonly cited; the Decathlon's copy CC BY-SA 4.0",
        folder="LiTS",
        subjects="the volume: its number; 28-48 are people of 3D-IRCADb-01",
        classes=("liver",),
        modality="ct",
    )

    def images(self) -> list[RawStack]:
        """One stack for each number from 0 to 130 of which a volume or a mask is on the disk."""
        return [raw for number in range(131) if (raw := self._find(number)) is not None]

    def stack(self, raw: RawStack) -> Stack:
        """Two NIfTI files; the mask lies like its volume, whatever its own header says."""
        path, label = raw.images[0], raw.labels[0]
        if label.parent.name == "labelsTr":
            return pair(nifti(path), nifti(label), LIVER)
        header = read_header(path)
        image, mask = nifti(path), nifti(label, header.affine)
        stack = pair(image, mask, LIVER)
        count = image.shape[0]
        some = sorted({int(number) for number in np.linspace(0, count - 1, min(count, LOOKED_AT))})
        stack = turned(stack, find_turn(read_planes(image, mask, LIVER, some)))
        blank = bool(np.allclose(np.abs(header.affine[:3, :3]), np.eye(3)))
        return replace(stack, spacing=None) if blank else stack

    def _find(self, number: int) -> RawStack | None:
        for image, label in self._names(number):
            if image.is_file() or label.is_file():
                return RawStack(f"volume-{number}", str(number), (image,), (label,), _people(number))
        return None

    def _names(self, number: int) -> Iterator[tuple[Path, Path]]:
        for ending in (".nii", ".nii.gz"):
            for below in RELEASED:
                folder = self.folder / below
                yield folder / f"volume-{number}{ending}", folder / f"segmentation-{number}{ending}"
            for below in DECATHLON:
                folder = self.folder / below
                yield folder / "imagesTr" / f"liver_{number}{ending}", folder / "labelsTr" / f"liver_{number}{ending}"


def _people(number: int) -> frozenset[str]:
    return frozenset({f"lits/{number}", "lits/unknown-case"} | ({"3d-ircadb-01"} if number in IRCAD else set()))
