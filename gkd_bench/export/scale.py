"""The pixel scale of a photograph that no data set knows: how many working pixels one of its pixels becomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.imagefiles import fov_diameter
from gkd_bench.data.prepare import scale_factor
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.facts import Facts
from gkd_bench.registry import DOMAINS

_LEAST, _MOST = 0.02, 50.0


@dataclass(frozen=True)
class ScaleChoice:
    """How the scale of images is decided; at most one of the three, none of them = by the field of view.

    Attributes:
        vessel_width: mean width of vessels in the photographs, native pixels.
        domain: the photographs are of the camera of this domain of the registry.
        factor: working pixels per native pixel.
    """

    vessel_width: float | None = None
    domain: str | None = None
    factor: float | None = None

    def given(self) -> list[str]:
        """Flags that were given."""
        every = {"--vessel-width": self.vessel_width, "--scale": self.factor, "--as-domain": self.domain}
        return [name for name, value in every.items() if value is not None]

    def check(self) -> None:
        """Raise GkdBenchError for several at once, values that are not positive, and unknown domains."""
        values, given = {"--vessel-width": self.vessel_width, "--scale": self.factor}, self.given()
        if len(given) > 1:
            raise GkdBenchError(f"{' and '.join(given)}: give one of them")
        wrong = [
            f"{name} must be greater than 0, found {value:g}"
            for name, value in values.items()
            if value is not None and not value > 0
        ]
        if self.domain is not None and self.domain not in DOMAINS:
            wrong.append(f"--as-domain {self.domain!r}: not a domain; known are {', '.join(DOMAINS)}")
        if wrong:
            raise GkdBenchError("; ".join(wrong))

    def words(self, facts: Facts) -> str:
        """What decides, in one sentence."""
        if self.factor is not None:
            return f"scale: {self.factor:g} working pixels per pixel, as given"
        if self.vessel_width is not None:
            return f"scale: vessels of {self.vessel_width:g} pixels are brought to {facts.working.vessel_width:.3g}, as in {facts.source}"
        if self.domain is not None:
            rule = facts.photographs.scale
            return f"scale: as an image of {self.domain}, by the benchmark's rule {rule.rule}"
        return (
            f"scale: the field of view of each image is brought to {facts.working.fov_width:.0f} pixels, typical of {facts.source}; "
            "give --vessel-width, --as-domain or --scale if the camera shows more or less of the retina"
        )


def image_factor(choice: ScaleChoice, facts: Facts, fov: NDArray[np.bool_]) -> float:
    """Working pixels per native pixel of one image.

    Args:
        choice: how it is decided.
        facts: of the model.
        fov: (height, width) field of view of the image.

    Raises:
        GkdBenchError: the factor is absurd, which a wrong flag or an empty field of view brings about.
    """
    factor = _factor(choice, facts, max(1, fov_diameter(fov)))
    if not _LEAST <= factor <= _MOST:
        raise GkdBenchError(f"a scale of {factor:.3g} cannot be meant; check --vessel-width, --scale or the image")
    return factor


def _factor(choice: ScaleChoice, facts: Facts, diameter: int) -> float:
    if choice.factor is not None:
        return choice.factor
    if choice.vessel_width is not None:
        if not facts.working.vessel_width:
            raise GkdBenchError(
                f"--vessel-width: nobody knows how wide the structures of {facts.source} are; give --scale"
            )
        return facts.working.vessel_width / choice.vessel_width
    if choice.domain is not None:
        return scale_factor(facts.photographs.scale, DOMAINS.load(choice.domain).card, diameter)
    return facts.working.fov_width / diameter
