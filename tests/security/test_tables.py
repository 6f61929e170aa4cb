"""Names and texts of users in every file of a report: formulas, markup and commands stay text."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from gkd_bench.export.inputs import table as predictions
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.contents import answer, page_tables
from gkd_bench.report.extras import Extras, Student
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.latex import escape_latex, to_latex
from gkd_bench.report.model_card import model_card
from gkd_bench.report.models import selected_cards
from gkd_bench.report.names import file_part
from gkd_bench.report.parent import Shown, parent_files, parent_note
from gkd_bench.report.render import code, safe_cell, to_csv, to_markdown
from gkd_bench.report.students import selected_students
from gkd_bench.report.writer import write_report

from ..report.made_up import make_origin, make_records
from ..report.mlflow_help import small

FORMULAS = (
    "=1+1",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "  =1",
    "\u200b=1",
    "\uff1d1",
    "\uff0b1",
    "\u2028=1",
)
EVIL = (
    "=1+1,=cmd|' /C calc'!A0;@x\t+y `</script></pre><img src=x onerror=alert(1)>` | [x](javascript:alert(1)) "
    "![y](javascript:1) <javascript:alert(1)> \\input{/etc/passwd} $\\write18{id}$ ^^5cinput %"
)
TEXTS = ("warning", "check", "host", "cause", "reason", "title", "window", "pixels", "device", "network")


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    @property
    def hostile(self) -> list[str]:
        """Elements that run something or lead somewhere."""
        return [
            f"{tag} {attributes}"
            for tag, attributes in self.found
            if any(name.startswith("on") for name in attributes)
            or any("javascript:" in (attributes.get(name) or "") for name in ("href", "src"))
            or attributes.get("src") == "x"
        ]


def rendered(markdown: str) -> Elements:
    """Markdown as a lenient reader shows it, raw HTML included."""
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    reader.validateLink = lambda url: True  # readers that check addresses would hide what is looked for
    return Elements(reader.render(markdown))


def dangerous(cell: str) -> bool:
    """Whether a spreadsheet may take it for a formula."""
    start = re.match(r"[\s\u200b\ufeff]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]", cell)
    return bool(start) and not re.fullmatch(r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?", cell)


@pytest.fixture(scope="module")
def records() -> SweepRecords:
    """A sweep whose every free text is hostile, subjects and images included."""
    made: list[dict[str, Any]] = []
    for record in small(make_records()):
        changed = {name: EVIL for name in TEXTS if isinstance(record.get(name), str)}
        changed |= {name: f"{EVIL} {record[name]}" for name in ("subject", "image") if name in record}
        changed |= {"versions": json.dumps({"torch": EVIL})} if "versions" in record else {}
        made.append({**record, **changed})
    described = {"sweep": "made_up", "domain": "hrf", "title": EVIL, "modality": EVIL, "window": EVIL, "pixels": EVIL}
    made.append(
        {"schema": 1, "record": "domain", **described, "scored": "test", "subjects": 3, "images": 6, "slices": None}
    )
    made.append({"schema": 1, "record": "left_out", "sweep": "made_up", "domain": "hrf", "image": EVIL, "reason": EVIL})
    made.append({"schema": 1, "record": "missing", "sweep": "made_up", "domain": "stare", "reason": EVIL})
    origin = make_origin(command=EVIL, machine=EVIL, sweep_yaml=f"title: {EVIL}\n```\n# {EVIL}\n")
    return SweepRecords.from_dicts(made, origin)


@pytest.fixture(scope="module")
def report(records: SweepRecords, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(records, Extras(), folder)
    return folder


def test_no_cell_of_any_csv_file_is_a_formula(report: Path) -> None:
    files, cells = sorted(report.rglob("*.csv")), []
    for file in files:
        for line in csv.reader(io.StringIO(file.read_text(encoding="utf-8"), newline="")):
            cells += line
            if line and line[0].startswith("#"):  # a spreadsheet knows no comments; some split at other characters
                cells += re.split(r"[,;\t|]", ",".join(line))
    assert len(files) > 5 and any("cmd" in cell for cell in cells)
    dashes = re.compile(r" +-")  # of sentences in comments
    assert [cell for cell in cells if dangerous(cell) and not dashes.match(cell)] == []


def test_no_text_becomes_an_element_of_the_page(report: Path) -> None:
    page = (report / "index.html").read_text(encoding="utf-8")
    elements = Elements(page)
    assert "calc" in page and len(elements.found) > 100
    assert elements.hostile == []
    assert {attributes.get("type") for tag, attributes in elements.found if tag == "script"} == {
        None,
        "application/json",
    }
    assert not [tag for tag, _ in elements.found if tag == "img"]


def test_no_text_becomes_an_element_of_markdown(report: Path, records: SweepRecords) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    note = parent_note(records, Shown(answer(records), page_tables(records)))
    for one in (text, note):
        elements = rendered(one)
        assert elements.hostile == []
        assert not [tag for tag, _ in elements.found if tag in ("img", "script", "iframe")]
    assert rendered(EVIL).hostile, "the renderer shows what it is looked at for"


def test_no_text_becomes_a_command_of_latex(report: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(report.rglob("*.tex")))
    assert "passwd" in text
    inputs = set(re.findall(r"\\input\{(.*?)\}", text))
    assert inputs and all(re.fullmatch(r"tables/[A-Za-z0-9_.-]+", name) for name in inputs)
    for command in (r"\write", r"$\write", "^^", r"\catcode"):
        assert command not in text
    assert not re.search(r"(?<!\\)%.", text)  # its own comments end the line


def test_model_cards_show_commands_and_settings_as_text(records: SweepRecords) -> None:
    prepare = {"channel": EVIL, EVIL: {"deeper": EVIL}}
    candidate = selected_students(records)["hrf"]
    network = {"name": "unet", "width": 0.1}
    student = Student(candidate.model, "hrf", candidate.method, 0, network, 64, prepare, 0.5, lambda: {})
    (card,) = selected_cards(records, [student])
    text = model_card(card)
    assert "calc" in text and rendered(text).hostile == []
    foreign = replace(card, candidate=replace(candidate, source="../../../up"))
    names = [name for name in parent_files(records, Shown(""), [foreign]) if "up" in name]
    assert names == ["model_cards/.._.._.._up.md"]


@pytest.mark.parametrize("name", ["..", "../x", "/etc/x", "a\\b", "a\0b", "a:b", "a\nb"])
def test_names_in_foreign_records_are_one_part_of_a_files_name(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.+@-]+", file_part(name))


@pytest.mark.parametrize("text", FORMULAS)
def test_text_cells_cannot_start_a_formula(text: str) -> None:
    assert dangerous(text) and not dangerous(safe_cell(text)) and safe_cell(text)[1:].split() == text.split()
    table = Table("t", "t", "t", (Column("a", "a"),), ((Cell(text),),), "answer")
    assert list(csv.reader(io.StringIO(to_csv(table), newline="")))[-1] == [safe_cell(text)]


@pytest.mark.parametrize("text", ["-0.003", "+1.5", "-2", "-1e-05", "1", "0.5"])
def test_numbers_stay_numbers(text: str) -> None:
    assert safe_cell(text) == text
    table = Table("t", "t", f"mean of {text},{text}.", (Column("a", "a"),), ((Cell(float(text)),),), "answer")
    written = to_csv(table).splitlines()
    assert float(written[-1]) == float(text) and f"{text},{text}" in written[1]


def test_list_of_predictions_holds_no_formula() -> None:
    content = predictions(("file", "dice"), [("=cmd|' /C calc'!A0.png", "-0.5"), ("@x.png", "1")]).decode()
    assert [*csv.reader(io.StringIO(content))] == [
        ["file", "dice"],
        ["'=cmd|' /C calc'!A0.png", "-0.5"],
        ["'@x.png", "1"],
    ]


@pytest.mark.parametrize("text", ["a`b", "``", "`", "a ``` b", "x\ny", "plain"])
def test_code_in_markdown_cannot_be_left(text: str) -> None:
    html = MarkdownIt("commonmark").render(f"* {code(f'{text} <b> {text}')} end")
    assert html.count("<code>") == 1 and "<b>" not in html and html.strip().endswith("</code> end</li>\n</ul>")


@pytest.mark.parametrize("character", "\\{}$&#%_^~<>|\"'`-[]*")
def test_special_characters_of_latex_lose_their_meaning(character: str) -> None:
    assert escape_latex(f"a{character}b") != f"a{character}b"
    table = Table("t", f"x{character}y", "t", (Column("a", f"h{character}i"),), ((Cell(f"c{character}d"),),), "answer")
    for text in (to_latex(table), to_markdown(table)):
        assert "\n" in text
    for plain in (f"x{character}y", f"h{character}i", f"c{character}d"):
        assert plain not in to_latex(table)
