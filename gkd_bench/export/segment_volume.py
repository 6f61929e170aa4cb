"""Volumes to masks: NIfTI files slice by slice through the benchmark's windowing, resizing and windows, back to their own voxels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.domain import DomainCard, Modality, Plane, RawStack, Stack, StackReader
from gkd_bench.data.nifti import NiftiHeader, nifti, read_header
from gkd_bench.data.stacks import grey_window, prepare_slice, window_words, working_size
from gkd_bench.data.volumefiles import Slices
from gkd_bench.export.inputs import NIFTI, Found, Wanted, stem_of
from gkd_bench.export.mask_file import slices_of, write_mask
from gkd_bench.export.model_file import ModelFile
from gkd_bench.export.overlay import draw_overlay
from gkd_bench.metrics.pictures import encode_png
from gkd_bench.stages.scoring import ClassMap, class_map, cleaned
from gkd_bench.store.files import replace_file

Window = tuple[float, float]


class OneVolume(StackReader):
    """A NIfTI file that no data set knows and that has no mask, as the preparation reads one.

    Args:
        path: the file; nothing but its header is read.
        modality: what its values are, which no header says.

    Attributes:
        header: what is needed of its header.
        stored: its slices as they lie in the file.

    Raises:
        DataError: missing, foreign or absurd.
    """

    def __init__(self, path: Path, modality: Modality) -> None:
        super().__init__()
        self.header: NiftiHeader = read_header(path)
        self.stored: Slices = nifti(path)
        name = stem_of(path)
        self.card = DomainCard(name, name, "the user's own", "not stated", "", classes=(), modality=modality)

    def images(self) -> list[RawStack]:
        """The one volume."""
        return [RawStack(self.card.name, self.card.name, self.stored.files)]

    def open(self, raw: RawStack) -> Stack:
        """The volume, turned to the one orientation; slices come as they lie in the file, which may be from the head."""
        slices, turn = self.stored, self.stored.turn
        spacing = turn.sizes(slices.spacing) if slices.spacing else None
        every = range(slices.shape[0])
        return Stack(turn.sizes(slices.shape), spacing, lambda: self._read(every), slices.remark)

    def content(self, digest: Callable[[Path], str]) -> Mapping[str, Any]:
        """SHA-256 of the file."""
        return {self.stored.files[0].name: digest(self.stored.files[0])}

    def plane(self, place: int) -> Plane:
        """The slice at this place, counted from the feet."""
        return next(self._read([self.stored.turn.order(self.stored.shape[0])[place]]))

    def placed(self) -> Iterator[tuple[int, Plane]]:
        """Every slice with its place from the feet, in the order in which files are read fastest, each checked.

        Raises:
            DataError: a slice that cannot be decoded or has values that are not finite.
        """
        (raw,) = self.images()
        stack, order = self.open(raw), self.stored.turn.order(self.stored.shape[0])
        for number, plane in enumerate(stack.planes()):
            if lines := self._plane_problems(raw, stack, number, plane):
                raise self.error(lines)
            yield order[number], plane

    @property
    def voxel(self) -> float:
        """Cubic millimetres."""
        return float(abs(np.linalg.det(self.header.affine[:3, :3])))

    def as_stored(self, classes: ClassMap) -> ClassMap:
        """(slices, rows, columns) in the package's orientation, along the axes of the file."""
        voxels = np.zeros(self.header.shape, np.uint8, order="F")
        stored, turn = slices_of(self.header, voxels), self.stored.turn
        for plane, number in zip(classes, turn.order(len(classes)), strict=True):
            turn.plane(stored[number])[...] = plane
        return voxels

    def _read(self, numbers: Sequence[int]) -> Iterator[Plane]:
        """Slices by their stored numbers, turned; none of them has a mask."""
        for stored in self.stored.read(numbers):
            values = np.ascontiguousarray(self.stored.turn.plane(stored), np.float32)
            yield Plane(values, np.zeros(values.shape, np.uint8))


@dataclass(frozen=True)
class VolumeFiles:
    """Segments volumes.

    Attributes:
        model: of volumes.
        wanted: what is to be done with each.
    """

    kind: ClassVar[str] = "volumes"
    endings: ClassVar[tuple[str, ...]] = NIFTI
    refusal: ClassVar[str] = (
        "no NIfTI file (.nii, .nii.gz), which a model of volumes takes; convert DICOM to NIfTI first, for example with "
        "`dcm2niix -z y FOLDER`, and single pictures are no volume"
    )
    model: ModelFile
    wanted: Wanted

    @property
    def columns(self) -> tuple[str, ...]:
        """Size, millimetres, and the volume of every class."""
        names = self.model.facts.class_names
        return ("slices", "rows", "columns", "spacing_mm", *(f"{name}_ml" for name in names))

    @property
    def remark(self) -> str:
        """How values become grey levels and slices are resized."""
        facts = self.model.facts
        settings = facts.slices
        size = f"{settings.spacing:g} mm per pixel" if settings.spacing else f"a longer side of {settings.size} pixels"
        return f"slices: {window_words(facts.modality, settings.model_dump())}, resized to {size}, as in training"

    def segment(self, path: Path, name: str) -> Found:
        """Segment one volume and write what was found; the mask, which says that a volume is done, comes last."""
        facts = self.model.facts
        volume = OneVolume(path, facts.modality)
        (stack, window), classes = predict_volume(self.model, volume, self.wanted.threshold)
        counts = [[int((plane == number).sum()) for plane in classes] for number, _ in enumerate(facts.class_names, 1)]
        fullest = int(np.argmax(np.sum(counts, axis=0)))
        if classes[fullest].any():
            picture = overlay_of(volume.plane(fullest), classes[fullest], window)
            replace_file(self.wanted.output / f"{name}_overlay.png", encode_png(picture))
        else:
            (self.wanted.output / f"{name}_overlay.png").unlink(missing_ok=True)  # of an earlier model
        written = write_mask(self.wanted.output / f"{name}_mask.nii.gz", volume.header, volume.as_stored(classes))
        millilitres = [f"{sum(planes) * volume.voxel / 1000:.2f}" for planes in counts]
        row = (*map(str, stack.shape), "x".join(f"{step:.4g}" for step in stack.spacing or ()), *millilitres)
        what = ", ".join(f"{value} ml {one}" for value, one in zip(millilitres, facts.class_names, strict=True))
        return Found(row, f"{written}, {what}" + (f" ({stack.remark})" if stack.remark else ""))


def predict_volume(
    model: ModelFile, volume: OneVolume, threshold: float | None = None
) -> tuple[tuple[Stack, Window], ClassMap]:
    """One volume through the benchmark's preparation, windows and resizing, decided as when it was scored.

    One slice at a time is in memory as numbers with a fraction; the whole volume only as class numbers.

    Args:
        model: of volumes.
        volume: the opened file.
        threshold: of one class, instead of the model's.

    Returns:
        The stack and the values that become black and white; and (slices, rows, columns) uint8 class numbers in the
        package's orientation.

    Raises:
        DataError: a slice that cannot be decoded or has values that are not finite.
    """
    facts, stack = model.facts, volume.open(volume.images()[0])
    size, window = working_size(stack, facts.slices), grey_window(volume, stack, facts.slices)
    classes = np.zeros(stack.shape, np.uint8)
    for place, (values, label) in volume.placed():
        grey, _ = prepare_slice(values, label, window, size)
        probability = model.probabilities(grey, (values.shape[0], values.shape[1]))
        classes[place] = class_map(probability, threshold or facts.threshold)
    return (stack, window), cleaned(classes, len(facts.class_names), facts.largest_component)


def overlay_of(plane: Plane, classes: ClassMap, window: Window) -> NDArray[np.uint8]:
    """A slice in its own pixels and the window of the model, with what was found; (rows, columns, 3) uint8 RGB."""
    rows, columns = classes.shape
    grey, _ = prepare_slice(plane.values, plane.label, window, (rows, columns))
    return draw_overlay(grey, classes)
