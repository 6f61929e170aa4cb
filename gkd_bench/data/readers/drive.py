"""DRIVE: 20 labelled training photographs; the 20 test photographs too where the user has their labels."""

from __future__ import annotations

from gkd_bench.data.domain import DomainCard, RawImage
from gkd_bench.data.imagefiles import locate
from gkd_bench.data.readers.photographs import Photographs


class Drive(Photographs):
    """The official download has no test labels today; ``test/1st_manual`` of older copies is accepted.

    The nominal vessel width is not measured but derived: 0.19 degrees of the retina, as wide as vessels appear to
    the cameras of CHASE_DB1 (0.190) and STARE (0.191), over the 45 degrees of DRIVE's camera.
    """

    card = DomainCard(
        name="drive",
        title="DRIVE",
        source="drive.grand-challenge.org (registration)",
        terms="research use, no passing on to third parties",
        folder="DRIVE",
        camera_degrees=45.0,
        vessel_width=0.0042,
        subjects="every image is one patient: the number of the file name",
    )
    optional_subjects = frozenset(f"{number:02d}" for number in range(1, 21))

    def images(self) -> list[RawImage]:
        """20 images (21 ... 40), or 40 where ``test/1st_manual`` exists."""
        training = [self._image("training", f"{number}") for number in range(21, 41)]
        if not (self.folder / "test" / "1st_manual").is_dir():
            return training
        return training + [self._image("test", subject) for subject in sorted(self.optional_subjects)]

    def _image(self, part: str, number: str) -> RawImage:
        folder = self.folder / part
        return RawImage(
            f"{number}_{part}",
            number,
            locate(folder / "images", f"{number}_{part}.tif"),
            locate(folder / "1st_manual", f"{number}_manual1.gif"),
            locate(folder / "mask", f"{number}_{part}_mask.gif"),
        )
