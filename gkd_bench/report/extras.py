"""What a report shows besides records, read from artefacts where they are at hand: pictures, vectors, students."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["fixed", "worst", "median", "best"]


PNG = b"\x89PNG\r\n\x1a\n"
"""How PNG bytes start. Others are not decoded: OpenCV would try its readers of every other format on them."""


@dataclass(frozen=True)
class Picture:
    """One test image as one final training sees it; the three PNG files have one size.

    Attributes:
        source, target, method, seed: the cell.
        subject: test subject.
        image: name of the image in its domain.
        score: headline Dice of this image.
        roles: ``fixed``: the same image for all models of a target; ``worst``, ``median``, ``best``: by this model's Dice.
        photo: the prepared image.
        label: the label over it.
        found: hits (yellow), false positives (vermilion) and misses (sky blue) over it.
    """

    source: str
    target: str
    method: str
    seed: int
    subject: str
    image: str
    score: float
    roles: tuple[Role, ...]
    photo: bytes
    label: bytes
    found: bytes

    @property
    def name(self) -> str:
        """A plain name, unique in a sweep."""
        return f"{self.source}_to_{self.target}_{self.method}_seed{self.seed}_{self.image}"


@dataclass(frozen=True)
class VectorSet:
    """Semantic vectors of one network on tiles of one domain.

    Attributes:
        source, method, seed: the training (``teacher``, ``scratch``, a method).
        domain: whose tiles: the source itself (its training tiles) or a target (its test tiles).
        values: (tiles, dim) float32, in P-SAE units.
    """

    source: str
    method: str
    seed: int
    domain: str
    values: NDArray[np.float32]


@dataclass(frozen=True)
class Student:
    """A final training that can be handed over.

    Attributes:
        model: content key of its training.
        source, method, seed: what it is.
        network: ``{"name": ..., "width": ...}``.
        tile: side of its input tile, pixels.
        prepare: how images are prepared for it.
        threshold: probability from which a pixel is foreground.
        weights: loads its state dict.
    """

    model: str
    source: str
    method: str
    seed: int
    network: Mapping[str, Any]
    tile: int
    prepare: Mapping[str, Any]
    threshold: float
    weights: Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Extras:
    """Everything beside the records; empty when a report is rebuilt from records alone."""

    pictures: tuple[Picture, ...] = ()
    vectors: tuple[VectorSet, ...] = ()
    students: tuple[Student, ...] = ()
