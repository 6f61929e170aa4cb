"""Looks at raw data before anything is trained on it: sound files, sizes, alignment, splits; and pictures for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.cache import is_prepared
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.digests import memo_file
from gkd_bench.data.domain import DomainReader, PhotographReader, RawImage, RawPixels, StackReader
from gkd_bench.data.imagefiles import fov_diameter
from gkd_bench.data.prepare import fingerprint, prepare_image, require, scale_factor
from gkd_bench.data.sheet import contact_sheet, panel
from gkd_bench.data.splits import SPLITS
from gkd_bench.data.stack_check import StackCheck, check_stacks, stack_table
from gkd_bench.errors import DataError

SHIFTS = tuple((dy, dx) for dy in range(-6, 7, 2) for dx in range(-6, 7, 2))
LARGEST_SHIFT = 2.0
LEAST_CONTRAST = 2.0  # grey levels; real photographs have 10 and more
WIDTH_TOLERANCE = 0.25


@dataclass(frozen=True)
class ImageCheck:
    """Findings on one image.

    Attributes:
        name: image.
        subject: its subject.
        split: its split.
        size: (height, width) in native pixels.
        fov_diameter: extent of the field of view, native pixels.
        vessel_share: share of the field of view that is labelled foreground.
        vessel_width: mean width of labelled structures, native pixels.
        contrast: how much darker vessels are than their surroundings, grey levels of the prepared image; NaN where labels
            are no vessels.
        shift: (rows, columns) by which the label would have to move to fit the image best, working pixels.
    """

    name: str
    subject: str
    split: str
    size: tuple[int, int]
    fov_diameter: int
    vessel_share: float
    vessel_width: float
    contrast: float
    shift: tuple[int, int]


@dataclass(frozen=True)
class DomainCheck:
    """Findings on one domain.

    Attributes:
        domain: its name.
        problems: what makes it unusable.
        warnings: what is odd.
        images: findings on each photograph; empty when files are missing.
        stacks: findings on each stack of slices; likewise.
        advice: what to do about missing files.
        sheet: contact sheet, if one was written.
        hides_names: whether problems and warnings, which name files, are to be shown but not written.
    """

    domain: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    images: tuple[ImageCheck, ...] = ()
    stacks: tuple[StackCheck, ...] = ()
    advice: str = ""
    sheet: Path | None = None
    hides_names: bool = False

    def remarks(self, shown: bool) -> list[str]:
        """Problems and warnings, one line each; how many there are where they are only to be shown, and are not."""
        if self.hides_names and not shown and (self.problems or self.warnings):
            counts = f"{len(self.problems)} problems and {len(self.warnings)} warnings"
            return [f"{self.domain}: {counts}, shown but not written here, as names of files may name patients"]
        lines = [f"{self.domain}: PROBLEM {line}" for line in self.problems]
        lines += [f"{self.domain}: warning: {line}" for line in self.warnings]
        if self.hides_names and shown and (self.images or self.stacks):
            lines.append(f"{self.domain}: numbers are places by name: ..._012 is the twelfth, here and in every report")
        return lines


@dataclass(frozen=True)
class Report:
    """Findings on all domains that were asked for."""

    domains: tuple[DomainCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every domain can be used."""
        return not any(domain.problems for domain in self.domains)

    def text(self, shown: bool = True) -> str:
        """A table with one line per domain (one of photographs, one of stacks), then problems, warnings and pictures.

        ``shown``: for the eyes of whoever has the files, not to be written, so that files may be named.
        """
        photographs = [domain for domain in self.domains if not domain.stacks]
        head = f"{'domain':<15}{'images':>7}{'subjects':>9}  {'train/val/test':<15}{'size':<12}{'fov px':>7}{'label':>8}{'width':>7}{'contrast':>9}"
        lines = [head, *(_table_line(domain) for domain in photographs)] if photographs else []
        lines += stack_table([(domain.domain, domain.stacks) for domain in self.domains if domain.stacks])
        return "\n".join([*lines, *_remarks(self.domains, shown)])


def check_domains(names: Iterable[str], catalogue: Catalogue, out: Path) -> Report:
    """Check domains and write ``<domain>.png`` contact sheets and ``check.txt`` to ``out``.

    Never raises for bad data: what is wrong is in the report.
    """
    out.mkdir(parents=True, exist_ok=True)
    report = Report(tuple(_check_domain(name, catalogue, out) for name in names))
    (out / "check.txt").write_text(report.text(shown=False) + "\n", encoding="utf-8")
    return report


def preflight(names: Iterable[str], catalogue: Catalogue, cache: Path | None = None) -> dict[str, DataError]:
    """The error of every domain that cannot be used; empty when all can.

    Every photograph is decoded, except those of domains that were prepared in ``cache`` before. Of stacks the headers are
    looked at: preparation, which reads every slice once, checks each of them as it passes.
    """
    errors: dict[str, DataError] = {}
    for name in names:
        try:
            known = cache and is_prepared(cache, name, fingerprint(name, catalogue, memo_file(cache)))
            if not known:
                reader = catalogue.open(name)
                require(reader, catalogue, deep=isinstance(reader, PhotographReader))
        except DataError as error:
            errors[name] = error
    return errors


def vessel_width(label: NDArray[np.bool_]) -> float:
    """Mean width of thin structures in pixels: twice their area over the length of their boundary; 0 without any."""
    mask = label.astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    boundary = sum(cv2.arcLength(contour, True) for contour in contours)
    return float(2.0 * mask.sum() / boundary) if boundary else 0.0


def best_shift(
    image: NDArray[np.uint8], label: NDArray[np.uint8], fov: NDArray[np.uint8]
) -> tuple[tuple[int, int], float]:
    """Shift of the label under which vessels are darkest against their surroundings, and the contrast unshifted.

    Args:
        image: (height, width) grey levels, or (height, width, 3), of which green is looked at.
        label: (height, width), 1 on vessels.
        fov: (height, width), 1 inside the field of view.

    Returns:
        (rows, columns) in pixels, multiples of 2 up to 6, and the contrast in grey levels, above 0 for dark vessels.
    """
    grey = (image if image.ndim == 2 else image[..., 1]).astype(np.float32)
    inside = cv2.erode(fov, np.ones((9, 9), np.uint8)).astype(bool)
    around = cv2.blur(grey * fov, (25, 25)) / np.maximum(cv2.blur(fov.astype(np.float32), (25, 25)), 1e-3)
    darkness = np.where(inside, around - grey, 0.0)
    rows, columns = np.nonzero(label & fov)
    height, width = label.shape

    def contrast(shift: tuple[int, int]) -> float:
        y, x = np.clip(rows + shift[0], 0, height - 1), np.clip(columns + shift[1], 0, width - 1)
        return float(darkness[y, x].mean())

    return max(SHIFTS, key=contrast), contrast((0, 0))


def _check_domain(name: str, catalogue: Catalogue, out: Path) -> DomainCheck:
    try:
        reader = catalogue.open(name)
    except DataError as error:
        return DomainCheck(name, error.problems, advice=error.advice)
    return replace(_check_opened(reader, catalogue, out), hides_names=reader.hides_names)


def _check_opened(reader: DomainReader, catalogue: Catalogue, out: Path) -> DomainCheck:
    try:
        if isinstance(reader, StackReader):
            return _check_stacks(reader, catalogue, out)
        problems = reader.problems(deep=True)
    except DataError as error:
        return DomainCheck(reader.card.name, error.problems, advice=error.advice)
    if problems or not isinstance(reader, PhotographReader):
        return DomainCheck(reader.card.name, tuple(problems), advice=reader.card.advice)
    return _check_photographs(reader, catalogue, out)


def _check_stacks(reader: StackReader, catalogue: Catalogue, out: Path) -> DomainCheck:
    """Everything is read once, for the findings and the pictures alike."""
    problems = reader.folder_problems() or reader.list_problems()
    if problems:
        return DomainCheck(reader.card.name, tuple(problems), advice=reader.card.advice)
    stacks, panels, broken = check_stacks(reader, catalogue.volumes)
    if not panels:
        return DomainCheck(reader.card.name, tuple(broken), advice=reader.card.advice)
    sheet = out / f"{reader.card.name}.png"
    contact_sheet(panels, sheet)
    skip = catalogue.broken == "skip"
    warnings = [f"left out: {line}" for line in broken] if skip else []
    return DomainCheck(
        reader.card.name, () if skip else tuple(broken), tuple(warnings), stacks=tuple(stacks), sheet=sheet
    )


def _check_photographs(reader: PhotographReader, catalogue: Catalogue, out: Path) -> DomainCheck:
    diameter = float(np.median([fov_diameter(reader.read(raw).fov) for raw in reader.images()]))
    try:
        factor = scale_factor(catalogue.prepare.scale, reader.card, diameter)
    except DataError as error:
        return DomainCheck(reader.card.name, error.problems)
    checks: list[ImageCheck] = []
    panels: list[NDArray[np.uint8]] = []
    for raw in reader.images():
        check, picture = _check_image(reader, raw, reader.read(raw), catalogue, factor)
        checks.append(check)
        panels.append(picture)
    sheet = out / f"{reader.card.name}.png"
    contact_sheet(panels, sheet)
    problems, warnings = tuple(_problems(reader, checks)), tuple(_warnings(reader, checks))
    return DomainCheck(reader.card.name, problems, warnings, tuple(checks), sheet=sheet)


def _check_image(
    reader: PhotographReader, raw: RawImage, pixels: RawPixels, catalogue: Catalogue, factor: float
) -> tuple[ImageCheck, NDArray[np.uint8]]:
    height, width = pixels.label.shape
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    image, label, fov = prepare_image(pixels, catalogue.prepare, size, catalogue.numbers(reader))
    foreground = np.asarray(label > 0, np.uint8)
    found = best_shift(image, foreground, fov) if _has_vessels(reader) else ((0, 0), float("nan"))
    shift, contrast = found
    split = reader.splits()[raw.subject]
    check = ImageCheck(
        name=raw.name,
        subject=raw.subject,
        split=split,
        size=(height, width),
        fov_diameter=fov_diameter(pixels.fov),
        vessel_share=float(((pixels.label > 0) & pixels.fov).sum() / pixels.fov.sum()),
        vessel_width=vessel_width(pixels.label > 0),
        contrast=contrast,
        shift=shift,
    )
    return check, panel(pixels, image, label, f"{raw.name} {split}")


def _has_vessels(reader: DomainReader) -> bool:
    """Whether labels are dark, thin structures: what alignment and width are looked at for."""
    return reader.card.classes == ("vessel",)


def _problems(reader: DomainReader, checks: Sequence[ImageCheck]) -> list[str]:
    found = [
        f"{c.name}: vessels are not darker than their surroundings ({c.contrast:.1f})"
        for c in checks
        if c.contrast < LEAST_CONTRAST
    ]
    found += [
        f"{c.name}: label seems shifted by {c.shift} pixels (rows, columns)"
        for c in checks
        if max(map(abs, c.shift)) > LARGEST_SHIFT
    ]
    homes: dict[str, set[str]] = {}
    for check in checks:
        homes.setdefault(check.subject, set()).add(check.split)
    return found + [
        f"subject {subject} is in several splits: {sorted(s)}" for subject, s in homes.items() if len(s) > 1
    ]


def _warnings(reader: DomainReader, checks: Sequence[ImageCheck]) -> list[str]:
    vessels = _has_vessels(reader)
    found = [
        f"{c.name}: {c.vessel_share:.1%} of the field of view is vessel"
        for c in checks
        if vessels and not 0.03 < c.vessel_share < 0.35
    ]
    if len({check.size for check in checks}) > 1:
        found.append(f"images have different sizes: {sorted({check.size for check in checks})}")
    train = [check.vessel_width / check.fov_diameter for check in checks if check.split == "train"]
    nominal = reader.card.vessel_width
    if nominal and abs(float(np.mean(train)) / nominal - 1) > WIDTH_TOLERANCE:
        found.append(
            f"mean vessel width of the training subjects is {np.mean(train):.5f} of the field of view, the card says {nominal}"
        )
    return found


def _table_line(domain: DomainCheck) -> str:
    if not domain.images:
        return f"{domain.domain:<15}{'unusable':>16}"
    splits = Counter(image.split for image in domain.images)
    counts = "/".join(str(splits[split]) for split in SPLITS)
    subjects = len({image.subject for image in domain.images})
    height, width = domain.images[0].size
    mean = {
        key: float(np.mean([getattr(i, key) for i in domain.images]))
        for key in ("fov_diameter", "vessel_share", "vessel_width", "contrast")
    }
    return (
        f"{domain.domain:<15}{len(domain.images):>7}{subjects:>9}  {counts:<15}{f'{width}x{height}':<12}"
        f"{mean['fov_diameter']:>7.0f}{mean['vessel_share']:>8.1%}{mean['vessel_width']:>7.2f}{mean['contrast']:>9.1f}"
    )


def _remarks(domains: Sequence[DomainCheck], shown: bool) -> list[str]:
    lines = [line for domain in domains for line in domain.remarks(shown)]
    lines += [f"{d.domain}: {d.advice}" for d in domains if d.advice]
    return lines + [f"{d.domain}: pictures in {d.sheet}" for d in domains if d.sheet]
