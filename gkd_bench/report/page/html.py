"""The page of a sweep as one string of HTML: no address of another machine in it, no script but its own.

Every text of records, sweep files and file names is escaped where it enters the template. The policy in the page's head
lets the browser run exactly one script, by its hash, and load nothing at all: pictures are part of the page.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gkd_bench import __version__
from gkd_bench.report import contents
from gkd_bench.report.captions import sizes_on
from gkd_bench.report.cells import Table
from gkd_bench.report.diagnostics import health_warnings, software_versions
from gkd_bench.report.domains import left_out_lines
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import counted, method_title, span, words
from gkd_bench.report.origin import DISCLAIMER
from gkd_bench.report.page.album import BUDGET, make_album
from gkd_bench.report.page.heat import Json, heat_data, static_heat
from gkd_bench.report.page.view import FigureView, album_data, figure_sections, legend, table_sections
from gkd_bench.report.palette import DIVERGING, SEQUENTIAL, error_colours, method_colours
from gkd_bench.report.rows import MANY, Kind, kind_of
from gkd_bench.report.selection import RULES

if TYPE_CHECKING:
    from gkd_bench.report.figures.base import Figure

FEW_WARNINGS = 4
PAGE = 8_000_000
"""Characters that a page should not exceed; pictures get what figures leave, but enough to be seen at all."""
_TEXTS = 1_000_000
_FEW_PICTURES = 1_500_000
_UNNAMED = "segmentation"
"""The task of one's own data, which says nothing of what is segmented."""
_HERE = Path(__file__).parent
_SCRIPTS = ("page.js", "heat.js", "viewer.js")


def html_page(records: SweepRecords, tables: Sequence[Table], figures: Sequence[Figure], extras: Extras) -> str:
    """The whole page; equal input gives the same string.

    Args:
        records: records of the sweep.
        tables: tables of the page, the answer first.
        figures: drawn figures; their files are linked relatively as ``figures/NAME.{svg,pdf,png}``.
        extras: pictures; full-size ones are linked relatively as ``overlays/NAME.png``.
    """
    drawn = figure_sections(figures)
    album = make_album(extras.pictures, _left_for_pictures(drawn))
    titles = {method: method_title(method) for method in records.methods}
    heat = heat_data(records)
    script = _script()
    return _environment().get_template("template.html.j2").render(
        sweep=records.sweep,
        tasks=_tasks(records),
        facts=run_facts(records),
        answer=contents.answer(records),
        disclaimer=DISCLAIMER,
        warnings=warnings(records),
        few_warnings=FEW_WARNINGS,
        heat=heat and heat | {"colours": _colours(records)},
        static=static_heat(records) if heat else None,
        album=album,
        pictures=album_data(album, titles),
        errors=error_colours(),
        legend=legend(tables),
        tables=table_sections(tables),
        figures=drawn,
        records=records,
        versions=software_versions(records),
        version=__version__,
        style=Markup(_file("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def run_facts(records: SweepRecords) -> list[tuple[str, list[str]]]:
    """What was run: (name, values), those that are not known left out."""
    scored = records.final("image", "test")
    rule = RULES.get(records.origin.rule)
    networks = scored.dropna(subset=["network"]).groupby("network", sort=True)["method"].agg(set)
    facts = [
        ("Trained on", _domains(records, records.sources)),
        ("Tested on", _domains(records, records.targets)),
        ("Methods", _methods(records)),
        ("Seeds", [", ".join(map(str, records.seeds)) or "none"]),
        ("Networks", [f"{name} ({_role(methods)})" for name, methods in sorted(networks.items(), key=str)]),
        ("Selected by", [rule.title if rule else records.origin.rule]),
        ("Classes", [words(name) for name in Evidence.of(records).classes]),
        (f"Test {Evidence.of(records).words.subjects}", _subjects(records)),
        ("Machine", [records.origin.machine]),
        ("Software", [f"gkd_bench {__version__}"]),
    ]
    return [(name, [value for value in values if value]) for name, values in facts if any(values)]


def warnings(records: SweepRecords) -> list[str]:
    """Everything a reader should know before believing the numbers: domains and images left out, checks that failed."""
    missing = [f"{domain} was left out: {reason}" for domain, reason in sorted(records.missing.items())]
    return [*missing, *left_out_lines(records), *health_warnings(records)]


def _left_for_pictures(figures: Sequence[tuple[str, str, Sequence[FigureView]]]) -> int:
    taken = sum(len(view.address) for _, _, views in figures for view in views)
    return min(BUDGET, max(_FEW_PICTURES, PAGE - _TEXTS - taken))


def _domains(records: SweepRecords, names: Sequence[str]) -> list[str]:
    return [f"{name} (left out)" if name in records.missing else name for name in names]


def _methods(records: SweepRecords) -> list[str]:
    """Their names; of many how many of each kind."""
    if len(records.methods) <= MANY:
        return [method_title(method) for method in records.methods]
    kinds = Counter(kind_of(records, method) for method in records.methods)
    return [counted(kinds[kind], kind) for kind in get_args(Kind) if kinds[kind]]


def _tasks(records: SweepRecords) -> str:
    """What is segmented; a task that is called so has no name of its own."""
    tasks = sorted({str(task) for task in records.final("image", "test")["task"].dropna()})
    return f"{', '.join(name for name in tasks if name != _UNNAMED)} segmentation".strip() if tasks else ""


def _role(methods: set[str]) -> str:
    roles = ["teacher"] if "teacher" in methods else []
    return " and ".join([*roles, *(["student"] if methods - {"teacher"} else [])])


def _subjects(records: SweepRecords) -> list[str]:
    """How many each target was tested on, with its slices where it has some."""
    images = records.final("image", "test")
    counts = images.groupby("target", sort=True)["subject"].nunique()
    sizes = {target: sizes_on(Evidence.of(records), target, records.methods).slices for target in records.targets}
    slices = {target: f" ({counted(span(found), 'slice')})" for target, found in sizes.items() if found}
    return [
        ", ".join(
            f"{target} {counts[target]}{slices.get(target, '')}" for target in records.targets if target in counts
        )
    ]


def _colours(records: SweepRecords) -> Json:
    return {"sequential": SEQUENTIAL, "diverging": DIVERGING, "methods": method_colours(records.methods)}


@cache
def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """All scripts as one, in a scope of their own."""
    return f'"use strict";\n(() => {{\n{"".join(map(_file, _SCRIPTS))}}})();'


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment
