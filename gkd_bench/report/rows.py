"""What a row of a table is: reference, control, method or variant, of which student, and what a reader must know of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from gkd_bench.config.method_options import METHOD_OPTIONS, MethodOptions, Remedy
from gkd_bench.report.cells import Cell
from gkd_bench.report.frame import SweepRecords, is_other_student
from gkd_bench.report.names import ALONE, KD, REFERENCES, TEACHER, listed, method_title
from gkd_bench.report.render import MARKS

Kind = Literal["reference", "control", "method", "variant"]
MANY = 6
"""Rows of methods up to which tables give every method a column, and figures a line of its own."""
REMEDY_TITLES: dict[Remedy, str] = {
    "photometric": "strong photometric augmentation",
    "style": "style augmentation",
    "swa": "weight averaging",
    "bn_adapt": "BatchNorm adaptation",
}
ADAPTED_NOTE = (
    "§ uses unlabelled target images: BatchNorm statistics are re-estimated on the target's test images at test time, which no "
    "other row may read"
)


def kind_of(records: SweepRecords, method: str) -> Kind:
    """What a method of the records is; the student alone of another size is a reference as well."""
    entry = _entry(records, method)
    if method in REFERENCES or (entry.get("of") == ALONE and is_other_student(entry)):
        return "reference"
    if entry.get("control"):
        return "control"
    return "variant" if entry else "method"


def base_of(records: SweepRecords, method: str) -> str:
    """The method of the registry that a control, a variant, or a method renamed in a report of several sweeps is of."""
    return str(_entry(records, method).get("of", method)).partition("@")[0]


def options_of(records: SweepRecords, method: str) -> type[MethodOptions] | None:
    """The options of the method behind a row; none for references that no method trained, and methods of other packages."""
    return METHOD_OPTIONS.get(base_of(records, method))


def is_distilled(records: SweepRecords, method: str) -> bool:
    """Whether a row is a method or a variant that distils: no reference, no control, and no student alone with a remedy."""
    return kind_of(records, method) in ("method", "variant") and base_of(records, method) not in (ALONE, "bn_views")


def student_of(records: SweepRecords, method: str) -> Mapping[str, Any] | None:
    """``{"name", "width"}`` of a row's student where it is not that of the sweep."""
    found: Mapping[str, Any] | None = _entry(records, method).get("student")
    own = {records.networks.get(name) for name in (ALONE, "baseline")} - {None}
    return None if found is None or network_name(found) in own else found


def network_name(student: Mapping[str, Any]) -> str:
    """A network as records name it."""
    return f"{student['name']} x{float(student.get('width', 1.0)):g}"


def counterpart(records: SweepRecords, reference: str, method: str) -> str | None:
    """The row of a reference that has a method's student, since networks of two sizes say nothing about a method.

    Args:
        records: records of the sweep.
        reference: a row with the sweep's own student.
        method: the row to compare with it.

    Returns:
        The reference itself for a method with the sweep's own student, else its variant that changes the student alone
        to the method's; none when the sweep has no such variant.
    """
    student = student_of(records, method)
    if student is None:
        return reference
    variants = records.origin.variants.items()
    fits = (
        name for name, one in variants if one["of"] == reference and is_other_student(one) and one["student"] == student
    )
    return next(fits, None)


def alone_of(records: SweepRecords, method: str) -> str | None:
    """The student-alone row of a method: the same network, continued for as many steps without a teacher."""
    return counterpart(records, ALONE, method)


def remedies_of(records: SweepRecords, method: str) -> tuple[Remedy, ...]:
    """Generalisation baselines that a row is combined with, as its trainings' settings say, or its variant where they do not."""
    found = set(_entry(records, method).get("set", {}).get("remedies", ()))
    for model in records.models.get(method, ()):
        settings = records.origin.settings.get(model, {})
        found |= {name for name in ("style", "swa") if settings.get(name)}
        found |= {"photometric"} if _is_strong(settings) and not any(map(_is_strong, _before(records))) else set()
        found |= {"bn_adapt"} if settings.get("adapt") else set()
    return tuple(name for name in REMEDY_TITLES if name in found)


def is_adapted(records: SweepRecords, method: str) -> bool:
    """Whether a row reads unlabelled images of the target."""
    return "bn_adapt" in remedies_of(records, method)


def port_of(records: SweepRecords, method: str) -> str:
    """What differs from the published method where that was made for another setting; else empty."""
    options = options_of(records, method)
    return "" if options is None else options.port


def method_cell(records: SweepRecords, method: str) -> Cell:
    """A method's title with the marks of a control, a port, and of target images that are read."""
    cell = Cell(method_title(method)).marked("control", kind_of(records, method) == "control")
    return cell.marked("port", bool(port_of(records, method))).marked("adapted", is_adapted(records, method))


def method_heading(records: SweepRecords, method: str) -> str:
    """A method's title with the same marks, for the head of a column."""
    flags = method_cell(records, method).flags
    return "".join([method_title(method), *(f" {mark}" for flag, mark in MARKS if flag in flags)])


def method_notes(records: SweepRecords, methods: Iterable[str]) -> tuple[str, ...]:
    """Footnotes of a table with these rows: controls, target images that are read, and every port with what it differs in."""
    return tuple(_notes(records, list(methods)))


def _notes(records: SweepRecords, methods: list[str]) -> Iterator[str]:
    if any(kind_of(records, method) == "control" for method in methods):
        yield "◇ control: no new method; a gain that it has as well is no gain of distillation"
    for name, entry in records.origin.variants.items():
        if entry.get("same_as") and name not in methods:
            yield f"◇ {method_title(name)}: coincides with {method_title(entry['same_as'])} in this sweep, whose augmentation is strong for all rows"
    if any(is_adapted(records, method) for method in methods):
        yield ADAPTED_NOTE
    ports: dict[str, str] = {}
    for method in methods:
        if text := port_of(records, method):
            ports.setdefault(base_of(records, method), text)
    yield from (f"¶ {method_title(base)}: {text}" for base, text in ports.items())


def lacking(records: SweepRecords, methods: Iterable[str]) -> str:
    """A sentence about rows whose student has no student-alone row to be compared with; empty without any."""
    names = [method_title(name) for name in methods if alone_of(records, name) is None]
    return f"Not compared, since the sweep has no student alone of the same size: {listed(names)}" if names else ""


def headliners(records: SweepRecords, ranked: Iterable[str], most: int = 8) -> list[str]:
    """The rows that a figure shows by name when there are too many: those all are compared with, GKD, and the best.

    Args:
        records: records of the sweep.
        ranked: rows that the figure could show, best first.
        most: how many.
    """
    order = list(ranked)
    first = [name for name in (TEACHER, ALONE, "gkd", KD) if name in order]
    chosen = list(dict.fromkeys([*first, *order]))
    return records.in_order(order if len(order) <= most else chosen[:most])


def _is_strong(settings: Mapping[str, Any]) -> bool:
    return bool(settings.get("augment", {}).get("photometric") == "strong")


def _before(records: SweepRecords) -> list[Mapping[str, Any]]:
    """Settings of what the sweep trained before any method, whose augmentation is that of all rows."""
    models = [model for name in (TEACHER, "baseline") for model in records.models.get(name, ())]
    return [records.origin.settings.get(model, {}) for model in models]


def _entry(records: SweepRecords, method: str) -> Mapping[str, Any]:
    """What the origin says of a control or variant; nothing of a method."""
    return records.origin.variants.get(method, {})
