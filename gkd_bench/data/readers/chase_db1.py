"""CHASE_DB1: 28 photographs of both eyes of 14 children, official flat folder."""

from __future__ import annotations

from gkd_bench.data.domain import DomainCard, RawImage
from gkd_bench.data.imagefiles import locate
from gkd_bench.data.readers.photographs import Photographs


class ChaseDb1(Photographs):
    """Labels of the first observer (``1stHO``); the field of view is computed, the data set has none."""

    card = DomainCard(
        name="chase_db1",
        title="CHASE_DB1",
        source="the Kingston University research data repository (researchdata.kingston.ac.uk), CHASEDB1.zip",
        terms="CC BY 4.0",
        folder="CHASEDB1",
        camera_degrees=30.0,
        vessel_width=0.00634,  # 5.83 px at a field of view of 919 px
        subjects="the child: digits of the file name; L and R are the two eyes of one child",
    )

    def images(self) -> list[RawImage]:
        """28 images, Image_01L ... Image_14R."""
        return [self._image(f"{child:02d}", eye) for child in range(1, 15) for eye in "LR"]

    def _image(self, child: str, eye: str) -> RawImage:
        name = f"Image_{child}{eye}"
        return RawImage(name, child, locate(self.folder, f"{name}.jpg"), locate(self.folder, f"{name}_1stHO.png"))
