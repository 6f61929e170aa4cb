"""HRF: 45 photographs of 15 healthy, 15 diabetic and 15 glaucomatous patients; official folders, any image size."""

from __future__ import annotations

from gkd_bench.data.domain import DomainCard, RawImage
from gkd_bench.data.imagefiles import locate
from gkd_bench.data.readers.photographs import Photographs

GROUPS = ("dr", "g", "h")


class Hrf(Photographs):
    """File endings are ``.JPG`` and ``.jpg`` in the official download, so letter case is ignored."""

    card = DomainCard(
        name="hrf",
        title="HRF",
        source="www5.cs.fau.de/research/data/fundus-images, all.zip",
        terms="CC BY 4.0",
        folder="HRF",
        camera_degrees=60.0,
        vessel_width=0.00273,  # 8.9 px at the official size, whose field of view is about 3264 px wide
        subjects="patient number and group: 01_dr, 01_g and 01_h are three patients",
    )

    def images(self) -> list[RawImage]:
        """45 images, 01_dr, 01_g, 01_h ... 15_h."""
        return [self._image(f"{patient:02d}_{group}") for patient in range(1, 16) for group in GROUPS]

    def _image(self, name: str) -> RawImage:
        return RawImage(
            name,
            name,
            locate(self.folder / "images", f"{name}.jpg"),
            locate(self.folder / "manual1", f"{name}.tif"),
            locate(self.folder / "mask", f"{name}_mask.tif"),
        )
