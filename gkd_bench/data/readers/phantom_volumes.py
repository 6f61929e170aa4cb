"""Generated abdominal domains, CT and MR: drawn bodies, written to real files and read back from them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

from gkd_bench.data.abdomen import LEVELS_OF, Tissue, VolumeStyle, draw_volume
from gkd_bench.data.dicom import dicom
from gkd_bench.data.domain import DomainCard, Modality, Plane, RawStack, Stack, StackReader
from gkd_bench.data.nifti import nifti
from gkd_bench.data.volumefiles import bands, listed, pair, pictures
from gkd_bench.data.volumewriters import write_dicom_series, write_mask_pngs, write_nifti

SUBJECTS = 12
CLASSES = ("liver", "right_kidney", "left_kidney", "spleen")
LEVELS = (63, 126, 189, 252)
"""Grey levels of the classes in the masks, those of the CHAOS MR masks."""


class PhantomVolume(StackReader):
    """Twelve generated subjects of one style, one stack each."""

    style: ClassVar[VolumeStyle]

    def images(self) -> list[RawStack]:
        """12 stacks, one per subject."""
        return [RawStack(f"{self.card.name}_{i:02d}", f"{i:02d}") for i in range(1, SUBJECTS + 1)]

    def open(self, raw: RawStack) -> Stack:
        """The stack; its files are written when its slices are asked for, and are gone after the last."""
        return Stack(self.style.shape, self.style.spacing, lambda: self._planes(raw))

    def content(self, digest: Callable[[Path], str]) -> Mapping[str, Any]:
        """The style's numbers; there are no files that stay."""
        return asdict(self.style)

    @abstractmethod
    def write(self, raw: RawStack, folder: Path) -> Stack:
        """Write the files of a stack into a folder, and open them as those of a real data set are opened."""

    def _planes(self, raw: RawStack) -> Iterator[Plane]:
        with TemporaryDirectory(prefix=f"gkd_{raw.name}_") as folder:
            yield from self.write(raw, Path(folder)).planes()


def _card(name: str, title: str, modality: Modality, intensity: str = "") -> DomainCard:
    return DomainCard(name, title, "generated", "none", "", 0, 0, "every stack", CLASSES, modality, intensity)


class PhantomCt(PhantomVolume):
    """Portal-venous CT: Hounsfield units, a table, little noise; a DICOM series with PNG masks, as CHAOS has them."""

    card = _card("phantom_ct", "Phantom, CT", "ct")
    inside = (60, 200)
    style = VolumeStyle(
        seed=44,
        modality="ct",
        shape=(20, 96, 96),
        spacing=(3.0, 3.5, 3.5),
        levels=tuple(LEVELS_OF[tissue][0] for tissue in Tissue),
        vary=7.0,
        texture=7.0,
        blur=0.5,
        noise=12.0,
        table=True,
    )

    def write(self, raw: RawStack, folder: Path) -> Stack:
        """A DICOM series from the head to the feet, and a PNG mask per file."""
        drawn = draw_volume(self.style, int(raw.subject))
        write_dicom_series(folder / "DICOM_anon", drawn.values, self.style.spacing, patient=raw.name, axcodes="LPI")
        write_mask_pngs(folder / "Ground", drawn.label, LEVELS, axcodes="LPI")
        series, masks = dicom(listed(folder / "DICOM_anon", "*.dcm")), pictures(listed(folder / "Ground", "*.png"))
        levels = [(level, level, number) for number, level in enumerate((0, *LEVELS))]
        return pair(series, masks, bands(*levels), by_number=True)


class PhantomMr(PhantomVolume):
    """T1-like MR: bright fat, no units, uneven sensitivity, coarser and noisier voxels; a pair of NIfTI files."""

    card = _card("phantom_mr", "Phantom, MR", "mr", "arbitrary units, another scale for every subject")
    style = VolumeStyle(
        seed=55,
        modality="mr",
        shape=(16, 80, 80),
        spacing=(5.5, 4.0, 4.0),
        levels=tuple(LEVELS_OF[tissue][1] for tissue in Tissue),
        vary=0.02,
        texture=0.03,
        blur=0.6,
        noise=0.035,
        bias=0.13,
        scale=(250.0, 1200.0),
    )

    def write(self, raw: RawStack, folder: Path) -> Stack:
        """Image and label as NIfTI, each along axes that only its header tells."""
        drawn, spacing = draw_volume(self.style, int(raw.subject)), self.style.spacing
        image = write_nifti(folder / "image.nii.gz", drawn.values, spacing, "RAS")
        label = write_nifti(folder / "label.nii", drawn.label, spacing, "LPI")
        return pair(
            nifti(image), nifti(label), bands(*((number, number, number) for number in range(len(CLASSES) + 1)))
        )
