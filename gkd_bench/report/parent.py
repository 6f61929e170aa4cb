"""What MLflow is to show of a sweep as a whole: the note its run opens on, its metrics, labels and files. Knows no MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gkd_bench.report.backend import without_password
from gkd_bench.report.cells import Section, Table
from gkd_bench.report.diagnostics import health_warnings
from gkd_bench.report.domains import left_out_lines
from gkd_bench.report.frame import CELL, SweepRecords
from gkd_bench.report.model_card import Card, model_card
from gkd_bench.report.names import counted, file_part
from gkd_bench.report.origin import DISCLAIMER, origin_lines
from gkd_bench.report.render import escape_markdown, readable_rows, to_markdown
from gkd_bench.report.runs import TEXT_LIMIT, finite, headline_metrics
from gkd_bench.report.selection import RULES
from gkd_bench.report.tables import failures_of

NOTE_LIMIT = 7900  # MLflow silently cuts notes at 8000 characters
TABLES = "mlflow_tables"
CARDS = "model_cards"
_NOTED: tuple[Section, ...] = ("answer", "comparison", "matrix", "efficiency", "selection", "forecast")
_SHOWN_WARNINGS = 3
_SHOWN_FAILURES = 5
_SHOWN_CAUSE = 200
_DICE = "dice"
_NO_BREAK = "\u00a0"
_MARK = re.compile(r" ((?:[◦≈▾◇¶§!]|\\\*)(?:\*\*|</ins>)? \|)")  # a mark at the end of a cell


@dataclass(frozen=True)
class Shown:
    """What the report of a sweep made, for its run.

    Attributes:
        answer: one or two sentences.
        tables: tables of the report's page, the one that answers first.
        files: path among the artifacts -> content: the page, CSV files, figures, pictures.
    """

    answer: str
    tables: Sequence[Table] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


def parent_metrics(records: SweepRecords) -> dict[str, float]:
    """Headline Dice, means over seeds: ``foreign/<method>/dice``, ``in_domain/<method>/dice``, ``<source>-to-<target>/<method>/dice``.

    The first two are means over the pairs of a kind, every pair with the same weight.
    """
    scores = records.seed_scores
    column = next((name for name, title in headline_metrics(scores).items() if title == _DICE), None)
    if scores.empty or column is None:
        return {}
    cells = scores.groupby(CELL[:3], sort=True)[column].mean().dropna().reset_index()
    named = {f"{row.source}->{row.target}/{row.method}/{_DICE}": row[column] for _, row in cells.iterrows()}
    home = cells["source"] == cells["target"]
    for place, part in (("foreign", cells[~home]), ("in_domain", cells[home])):
        named |= {f"{place}/{method}/{_DICE}": mean for method, mean in part.groupby("method")[column].mean().items()}
    return finite(named)


def parent_files(records: SweepRecords, shown: Shown, cards: Sequence[Card]) -> dict[str, bytes]:
    """Files of the sweep's run by path: those of the report, tables for MLflow's viewer, model cards, the origin."""
    texts = {f"{TABLES}/{table.name}.json": table_json(table) for table in shown.tables}
    texts |= {f"{CARDS}/{file_part(card.candidate.source)}.md": model_card(card) for card in cards}
    texts["origin.txt"] = "".join(f"{without_password(line)}\n" for line in origin_lines(records))
    return {**shown.files, **{path: text.encode() for path, text in texts.items()}}


def parent_tags(records: SweepRecords, shown: Shown, cards: Sequence[Card]) -> dict[str, str]:
    """Labels of the sweep's run: its note, where it comes from, how much failed, and which files are tables."""
    origin = records.origin
    listed = [{"path": f"{TABLES}/{table.name}.json", "type": "table"} for table in shown.tables]
    students = {f"selected.{card.candidate.source}": card.name for card in cards}
    return {
        "kind": "sweep",
        "rule": origin.rule,
        "seeds": ", ".join(map(str, records.seeds))[:TEXT_LIMIT],
        "command": without_password(origin.command)[:TEXT_LIMIT],
        **students,
        **({"failures": failed} if (failed := _failed_words(records)) else {}),
        "mlflow.note.content": parent_note(records, shown),
        "mlflow.loggedArtifacts": json.dumps(listed),
    }


def parent_note(records: SweepRecords, shown: Shown, limit: int = NOTE_LIMIT) -> str:
    """The sweep's answer in Markdown: as many whole tables as fit into ``limit`` characters, the answering ones first.

    Tables that do not fit are counted instead.
    """
    note, left_out = "", 0
    for section in map(_for_mlflow, _sections(records, shown)):
        fits = len(note) + len(section) + 150 <= limit
        note, left_out = (f"{note}{section}\n", left_out) if fits else (note, left_out + 1)
    more = f"\n{counted(left_out, 'more section')} did not fit here; open `index.html` or `report.md` among the artifacts.\n"
    return note + (more if left_out else "")


def table_json(table: Table) -> str:
    """The form of MLflow's ``log_table``, which cannot be used itself because it appends to a table that is there."""
    columns, *rows = readable_rows(table)
    return json.dumps({"columns": columns, "data": rows}, ensure_ascii=False)


def _sections(records: SweepRecords, shown: Shown) -> Iterator[str]:
    rule = RULES[records.origin.rule]
    yield (
        f"**{escape_markdown(shown.answer)}**\n\nSelected by {rule.title}; no target was read for it. Every table, figure and picture is "
        f"among the artifacts: `index.html` is the whole report. {DISCLAIMER}\n"
    )
    order = {section: place for place, section in enumerate(_NOTED)}
    chosen = sorted((table for table in shown.tables if table.section in order), key=lambda table: order[table.section])
    first = [table for table in chosen if table.section == "answer"]
    yield from (to_markdown(table, 3) for table in first)
    yield from _failures(records)
    yield from _warnings(records)
    yield from (to_markdown(table, 3) for table in chosen if table not in first)


def _for_mlflow(markdown: str) -> str:
    """Markdown that MLflow shows well: after a backslash and an angle bracket it shows no table; narrow cells break at one space."""
    markdown = _MARK.sub(rf"{_NO_BREAK}\1", markdown)
    return markdown.replace("\\<", "&lt;").replace("\\>", "&gt;").replace("± ", f"±{_NO_BREAK}")


def _failed_words(records: SweepRecords) -> str:
    """How many stages and trials failed; empty when none did."""
    kinds = [one.kind for one in failures_of(records)]
    return ", ".join(counted(kinds.count(kind), kind) for kind in ("stage", "trial") if kind in kinds)


def _failures(records: SweepRecords) -> Iterator[str]:
    """The first failures with their causes, stages before trials."""
    found = failures_of(records)
    if found:
        lines = (f"{one.kind} {one.name}: {one.cause[:_SHOWN_CAUSE]}" for one in found[:_SHOWN_FAILURES])
        listed = "".join(f"* {escape_markdown(line)}\n" for line in lines)
        more = f"* and {len(found) - _SHOWN_FAILURES} more in the report\n" if len(found) > _SHOWN_FAILURES else ""
        yield f"### Failures: {_failed_words(records)}\n\n{listed}{more}"


def _warnings(records: SweepRecords) -> Iterator[str]:
    lines = [*left_out_lines(records), *health_warnings(records)]
    if lines:
        listed = "".join(f"* {escape_markdown(line)}\n" for line in lines[:_SHOWN_WARNINGS])
        more = f"* and {len(lines) - _SHOWN_WARNINGS} more in the report\n" if len(lines) > _SHOWN_WARNINGS else ""
        yield f"### Warnings\n\n{listed}{more}"
