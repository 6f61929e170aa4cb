"""STARE: 20 photographs, ten of them pathological, as unpacked from stare-images.tar and labels-ah.tar."""

from __future__ import annotations

from gkd_bench.data.domain import DomainCard, RawImage
from gkd_bench.data.imagefiles import locate
from gkd_bench.data.readers.photographs import Photographs

NUMBERS = (1, 2, 3, 4, 5, 44, 77, 81, 82, 139, 162, 163, 235, 236, 239, 240, 255, 291, 319, 324)


class Stare(Photographs):
    """Labels of the first observer (``ah``), plain or gzipped PPM; the field of view is computed."""

    card = DomainCard(
        name="stare",
        title="STARE",
        source="cecas.clemson.edu/~ahoover/stare, probing page: stare-images.tar and labels-ah.tar",
        terms="offered for research; no formal licence",
        folder="STARE",
        camera_degrees=35.0,
        vessel_width=0.00546,  # 3.54 px at a field of view of 649 px
        subjects="every image; the data set names no patients",
    )

    def images(self) -> list[RawImage]:
        """20 images, im0001 ... im0324."""
        return [self._image(f"im{number:04d}") for number in NUMBERS]

    def _image(self, name: str) -> RawImage:
        image = locate(self.folder / "stare-images", f"{name}.ppm.gz", f"{name}.ppm")
        label = locate(self.folder / "labels-ah", f"{name}.ah.ppm.gz", f"{name}.ah.ppm")
        return RawImage(name, name, image, label)
