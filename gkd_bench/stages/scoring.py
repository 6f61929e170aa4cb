"""What a network finds in photographs and stacks, and how good that is: the one place where probabilities become scores.

Photographs are scored one by one, whole and inside their field of view. Slices of a stack are scored together, as the one
volume they are: in millimetres and three dimensions where the spacing is known, slice by slice in pixels where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gkd_bench.config.schema import EvaluateStage
from gkd_bench.data.cache import AnyImages, TestImages, Volume
from gkd_bench.metrics.calibration import Calibration
from gkd_bench.metrics.catalogue import REGION, of_class
from gkd_bench.metrics.overlap import ImageScore, ScoreHistogram, confusion, dice, score_image
from gkd_bench.metrics.surface import surface_metrics
from gkd_bench.metrics.topology import topology_metrics

CHUNK = 16
"""Slices that are predicted and resized at once."""
SURFACE = ("hd95", "assd", "nsd")
Values = dict[str, float | None]
Floats = NDArray[np.float32]
ClassMap = NDArray[np.uint8]
Predict = Callable[[NDArray[np.uint8]], Floats]
"""(n, height, width[, channels]) uint8 -> (n, classes, height, width) probabilities of the foreground classes."""


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class in one photograph or stack, at native size.

    Attributes:
        whole: overlap, AUC and calibration everywhere.
        inside: the same inside the field of view; none for stacks, which have none.
        shape: surface and topology metrics, inside the field of view where there is one.
    """

    whole: ImageScore
    inside: ImageScore | None = None
    shape: Values = field(default_factory=dict)

    def metrics(self) -> Values:
        """Flat names; ``_fov`` = inside the field of view."""
        if self.inside is None:
            return self.whole.metrics() | self.shape
        return both_metrics(self.whole, self.inside) | {f"{name}{REGION}": value for name, value in self.shape.items()}


@dataclass(frozen=True)
class Scored:
    """Scores of one photograph or stack.

    Attributes:
        index: its place among the volumes of the test split.
        name, subject: the photograph or stack.
        slices: of a stack; none for photographs.
        classes: one score per foreground class.
        names: of the classes, where there are several.
    """

    index: int
    name: str
    subject: str
    slices: int | None
    classes: tuple[ClassScore, ...]
    names: tuple[str, ...] = ()

    def metrics(self) -> Values:
        """Flat names; of several classes their mean, and every class's own as ``dice/<class>`` (``dice/<class>_fov``)."""
        return over_classes([one.metrics() for one in self.classes], self.names)

    @property
    def dice(self) -> float:
        """The headline: Dice inside the field of view, of the whole where there is none."""
        return headline_of(self.metrics())


def headline_of(metrics: Values) -> float:
    """Dice inside the field of view, of the whole where there is none; 0 where it is undefined."""
    return metrics.get(f"dice{REGION}", metrics.get("dice")) or 0.0


def both_metrics(whole: ImageScore, inside: ImageScore) -> Values:
    """Metrics of the whole image, and with the suffix ``_fov`` those inside the field of view."""
    return whole.metrics() | {f"{name}{REGION}": value for name, value in inside.metrics().items()}


def over_classes(metrics: Sequence[Values], names: Sequence[str]) -> Values:
    """The metrics of one class as they are; of several classes the mean of what is defined, then every class's own."""
    if len(metrics) == 1:
        return metrics[0]
    found: Values = {}
    for name in metrics[0]:
        defined = [value for one in metrics if (value := one[name]) is not None]
        found[name] = float(np.mean(defined)) if defined else None
    for number, one in zip(names, metrics, strict=True):
        found |= {of_class(name, number): value for name, value in one.items()}
    return found


# ---------------------------------------------------------------- from probabilities to classes


def class_map(probability: Floats, threshold: float) -> ClassMap:
    """Class numbers of probabilities: of one class where it reaches the threshold, of several the most probable.

    Args:
        probability: (classes, height, width) of the foreground classes.
        threshold: of one class.

    Returns:
        (height, width) uint8, 0 = background.
    """
    if len(probability) == 1:
        return np.asarray(probability[0] >= threshold, np.uint8)
    background = 1.0 - probability.sum(axis=0)
    return np.asarray(np.concatenate([background[None], probability]).argmax(axis=0), np.uint8)


def mean_dice(found: ClassMap, label: ClassMap, classes: int, inside: NDArray[Any] | None = None) -> float:
    """Mean Dice over the foreground classes, of arrays of any one shape."""
    scores = [dice(confusion(found == number, label == number, inside)) or 0.0 for number in range(1, classes + 1)]
    return float(np.mean(scores))


def working_dice(predict: Predict, images: AnyImages, volume: Volume, classes: int) -> float:
    """Dice of a photograph inside its field of view, or of all slices of a stack, at the working scale and threshold 0.5."""
    found, label = [], []
    for indices in _chunks(volume.indices):
        probability = predict(np.stack([images.image(index) for index in indices]))
        found += [class_map(one, 0.5) for one in probability]
        label += [images.label(index) for index in indices]
    inside = None if volume.stacked else np.stack([images.fov(index) for index in volume.indices])
    return mean_dice(np.stack(found), np.stack(label), classes, inside)


def native_probabilities(predict: Predict, images: AnyImages, indices: Sequence[int]) -> Iterator[tuple[int, Floats]]:
    """(index, (classes, height, width) probabilities at native size) of images of one size, resized bilinearly."""
    for chunk in _chunks(indices):
        found = predict(np.stack([images.image(index) for index in chunk]))
        for index, probability in zip(chunk, found, strict=True):
            height, width = images.entries[index].native_size
            resized = [cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in probability]
            yield index, np.clip(np.stack(resized), 0.0, 1.0).astype(np.float32, copy=False)


def _chunks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    return (indices[first : first + CHUNK] for first in range(0, len(indices), CHUNK))


# ---------------------------------------------------------------- scores


def score_volume(
    predict: Predict,
    images: TestImages,
    place: int,
    volume: Volume,
    stage: EvaluateStage,
    names: Sequence[str] = (),
) -> Scored:
    """Score one photograph or stack against its labels at native size.

    Args:
        predict: what the network finds.
        images: the test split.
        place: number of the volume in it.
        volume: the photograph or stack.
        stage: threshold, tolerance, post-processing.
        names: of the foreground classes, where there are several.
    """
    classes = len(names) or 1
    score = _score_stack if volume.stacked else _score_photograph
    scores = tuple(score(predict, images, volume, stage, classes))
    slices = len(volume.indices) if volume.stacked else None
    return Scored(place, volume.name, volume.subject, slices, scores, tuple(names))


def _score_photograph(
    predict: Predict, images: TestImages, volume: Volume, stage: EvaluateStage, classes: int
) -> Iterator[ClassScore]:
    ((index, probability),) = native_probabilities(predict, images, volume.indices)
    label, fov = images.native_label(index), images.native_fov(index) > 0
    found = cleaned(class_map(probability, stage.threshold), classes, stage.largest_component)
    for number in range(1, classes + 1):
        truth, mask = label == number, found == number
        whole = _image_score(probability[number - 1], mask, truth, None)
        inside = _image_score(probability[number - 1], mask, truth, fov)
        shape: Values = {
            **surface_metrics(mask & fov, truth & fov, tolerance=stage.tolerance),
            **topology_metrics(mask & fov, truth & fov),
        }
        yield ClassScore(whole, inside, shape)


def _image_score(probability: Floats, mask: NDArray[Any], truth: NDArray[Any], fov: NDArray[Any] | None) -> ImageScore:
    """Probabilities scored as they are, overlap by the mask that was decided on."""
    scored = score_image(probability, truth, fov)
    return ImageScore(confusion(mask, truth, fov), scored.histogram, scored.calibration)


def _score_stack(
    predict: Predict, images: TestImages, volume: Volume, stage: EvaluateStage, classes: int
) -> Iterator[ClassScore]:
    size = images.entries[volume.indices[0]].native_size
    found, label = (np.zeros((len(volume.indices), *size), np.uint8) for _ in range(2))
    histograms, calibrations = [ScoreHistogram()] * classes, [Calibration()] * classes
    for row, (index, probability) in enumerate(native_probabilities(predict, images, volume.indices)):
        label[row], found[row] = images.native_label(index), class_map(probability, stage.threshold)
        for number in range(classes):
            truth = label[row] == number + 1
            histograms[number] += ScoreHistogram.from_scores(probability[number], truth)
            calibrations[number] += Calibration.from_scores(probability[number].ravel(), truth.ravel())
    found = cleaned(found, classes, stage.largest_component, loose=volume.spacing is None)
    for number in range(classes):
        mask, truth = found == number + 1, label == number + 1
        whole = ImageScore(confusion(mask, truth), histograms[number], calibrations[number])
        yield ClassScore(whole, None, _stack_shape(mask, truth, volume, stage))


def _stack_shape(mask: NDArray[Any], truth: NDArray[Any], volume: Volume, stage: EvaluateStage) -> Values:
    """Surface metrics in millimetres, or, of loose slices, in pixels, mean over those with anything in them."""
    if volume.spacing is not None:
        found = surface_metrics(mask, truth, volume.spacing, stage.tolerance)
        return {f"{name}_mm": found[name] for name in SURFACE}
    slices = [
        surface_metrics(one, other, tolerance=stage.tolerance)
        for one, other in zip(mask, truth, strict=True)
        if one.any() or other.any()
    ]
    return {name: float(np.mean([one[name] for one in slices])) if slices else None for name in SURFACE}


def cleaned(found: ClassMap, classes: int, wanted: bool, loose: bool = False) -> ClassMap:
    """The largest connected component of every class, where that is wanted; the rest becomes background.

    Args:
        found: (height, width) or (slices, height, width) class numbers.
        classes: foreground classes.
        wanted: whether to do anything.
        loose: slices that are no neighbours are looked at one by one.
    """
    if not wanted:
        return found
    if loose and found.ndim == 3:
        return np.stack([cleaned(one, classes, wanted) for one in found])
    out = np.zeros_like(found)
    for number in range(1, classes + 1):
        components, count = ndimage.label(found == number)
        if count:
            sizes = np.bincount(components.ravel())
            out[components == 1 + int(sizes[1:].argmax())] = number
    return out
