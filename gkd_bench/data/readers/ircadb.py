"""3D-IRCADb-01: 20 CT volumes, most of them of livers with tumours; the same people are in LiTS."""

from __future__ import annotations

from gkd_bench.data.dicom import dicom
from gkd_bench.data.domain import DomainCard, RawStack, Stack
from gkd_bench.data.readers.volumes import Examinations
from gkd_bench.data.volumefiles import bands, listed, pair


class Ircadb(Examinations):
    """3Dircadb1.<n>/PATIENT_DICOM/image_<k> with 3Dircadb1.<n>/MASKS_DICOM/liver/image_<k>, DICOM both."""

    inside = (0.0, 250.0)
    card = DomainCard(
        name="ircadb",
        title="3D-IRCADb-01",
        source="ircad.fr/research/data-sets/liver-segmentation-3d-ircadb-01, with the archives in it unpacked",
        terms="CC BY-NC-ND",
        folder="3Dircadb1",
        subjects="the patient: number of the folder; LiTS 28-48 are the same people",
        classes=("liver",),
        modality="ct",
    )

    def images(self) -> list[RawStack]:
        """One stack for each of the 20 folders that is there."""
        found = []
        for number in range(1, 21):
            folder = self.folder / f"3Dircadb1.{number}"
            if folder.is_dir():
                images = listed(folder / "PATIENT_DICOM", "image_*")
                labels = listed(folder / "MASKS_DICOM" / "liver", "image_*")
                people = frozenset({"3d-ircadb-01", f"3d-ircadb-01/{number}"})
                found.append(RawStack(f"3Dircadb1.{number}", str(number), images, labels, people))
        return found

    def stack(self, raw: RawStack) -> Stack:
        """Two DICOM series, paired by the numbers in their names; masks as stored, without a scale."""
        return pair(
            dicom(raw.images), dicom(raw.labels, rescale=False), bands((0, 0, 0), (1, 65535, 1)), by_number=True
        )
