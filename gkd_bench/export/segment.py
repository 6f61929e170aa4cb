"""Photographs to masks: the benchmark's preparation, windows and resizing, at a scale that is told or found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.domain import RawPixels
from gkd_bench.data.imagefiles import computed_fov_or_all, opened, read_rgb
from gkd_bench.data.prepare import prepare_image
from gkd_bench.data.windows import Floats
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.inputs import PICTURES, Found, Wanted
from gkd_bench.export.model_file import ModelFile
from gkd_bench.export.overlay import draw_overlay
from gkd_bench.export.scale import image_factor
from gkd_bench.metrics.pictures import encode_png
from gkd_bench.stages.scoring import ClassMap, class_map, cleaned
from gkd_bench.store.files import replace_file


@dataclass(frozen=True)
class Prediction:
    """One image and what was found in it.

    Attributes:
        rgb: (height, width, 3) uint8, the photograph.
        fov: (height, width) bool; all true where no field of view was found.
        probability: (foreground classes, height, width) float32 in [0, 1] at native size, 0 outside the field of view.
        classes: (height, width) uint8 class numbers, 0 = background.
        factor: working pixels per native pixel.
    """

    rgb: NDArray[np.uint8]
    fov: NDArray[np.bool_]
    probability: Floats
    classes: ClassMap
    factor: float


@dataclass(frozen=True)
class Photographs:
    """Segments photographs.

    Attributes:
        model: of photographs.
        wanted: what is to be done with each.
    """

    kind: ClassVar[str] = "photographs"
    endings: ClassVar[tuple[str, ...]] = PICTURES
    refusal: ClassVar[str] = f"not a picture that is read; those end in {', '.join(PICTURES)}"
    model: ModelFile
    wanted: Wanted

    @property
    def columns(self) -> tuple[str, ...]:
        """Size, scale, and the share of the field of view that is foreground, of several classes each one's."""
        names = self.model.facts.class_names
        shares = ("foreground_share",) if len(names) == 1 else tuple(f"{name}_share" for name in names)
        return ("width", "height", "scale", "field_of_view", *shares)

    @property
    def remark(self) -> str:
        """What decides the scale."""
        return self.wanted.scale.words(self.model.facts)

    def segment(self, path: Path, name: str) -> Found:
        """Segment one photograph and write what was found."""
        found = predict_image(self.model, read_photograph(path), self.wanted)
        names = self.model.facts.class_names
        _write(found, self.wanted, name, names)
        height, width = found.classes.shape
        inside = max(1, int(found.fov.sum()))
        shares = [f"{int((found.classes == at).sum()) / inside:.4f}" for at, _ in enumerate(names, 1)]
        row = (str(width), str(height), f"{found.factor:.4f}", f"{found.fov.mean():.4f}", *shares)
        shown = zip(shares, ("foreground",) if len(names) == 1 else names, strict=True)
        what = ", ".join(f"{share} {name}" for share, name in shown)
        return Found(row, f"{self.wanted.output / name}_mask.png, {what}, scale {row[2]}")


def read_photograph(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8. Raises GkdBenchError for pictures of more than 8 bits, OSError for torn or huge ones."""
    with opened(path) as picture:
        if picture.mode.startswith(("I", "F")):
            raise GkdBenchError(f"{path}: has more than 8 bits per channel; convert it to 8 bits first")
    return read_rgb(path)


def predict_image(model: ModelFile, rgb: NDArray[np.uint8], wanted: Wanted) -> Prediction:
    """One photograph through the benchmark's preparation, windows and resizing, decided as when it was scored."""
    facts = model.facts
    fov = computed_fov_or_all(rgb)
    factor = image_factor(wanted.scale, facts, fov)
    probability = native_probability(model, rgb, fov, factor)
    decided = class_map(probability, wanted.threshold or facts.threshold)
    classes = cleaned(decided, len(facts.class_names), facts.largest_component)
    return Prediction(rgb, fov, np.where(fov, probability, np.float32(0.0)), np.where(fov, classes, 0), factor)


def native_probability(model: ModelFile, rgb: NDArray[np.uint8], fov: NDArray[np.bool_], factor: float) -> Floats:
    """(foreground classes, height, width) probabilities at native size, predicted at the working scale."""
    height, width = rgb.shape[:2]
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    pixels = RawPixels(rgb, np.zeros_like(fov), fov)
    image, _, _ = prepare_image(pixels, model.facts.photographs, size)
    return model.probabilities(image, (height, width))


def _write(found: Prediction, wanted: Wanted, name: str, names: tuple[str, ...]) -> None:
    """Each file appears whole or not at all; the mask, which says that an image is done, comes last.

    The mask of one class is black and white, that of several has their numbers.
    """
    several = len(names) > 1
    for class_name, probability in zip(names, found.probability, strict=True):
        if wanted.probability:
            levels = np.asarray(np.rint(probability * 65535.0), np.uint16)
            start = f"{name}_{class_name}" if several else name
            replace_file(wanted.output / f"{start}_probability.png", encode_png(levels))
    parts = {"_overlay": draw_overlay(found.rgb, found.classes)}
    parts["_mask"] = found.classes * np.uint8(1 if several else 255)
    for end, picture in parts.items():
        replace_file(wanted.output / f"{name}{end}.png", encode_png(picture))
