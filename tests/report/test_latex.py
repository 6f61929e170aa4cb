from __future__ import annotations

import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest

from gkd_bench.report import tables
from gkd_bench.report.cells import Cell, Column, Flag, Table
from gkd_bench.report.contents import page_tables
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.latex import WIDEST, escape_latex, latex_document, to_latex

NAME = Column("name", "name")
SCORE = Column("dice", "Dice", "up", spread=True)
ENGINE = shutil.which("pdflatex")
NASTY = string.printable + "±≈→↑↓×◦▾†‡✓é ü Ł ß “quoted” – — … µ 中 😀 \\input{x} %$#&_{}~^ ?` !` << >>"  # noqa: RUF001


def table(*rows: tuple[Cell, ...], columns: tuple[Column, ...] = (NAME, SCORE), caption: str = "Caption.") -> Table:
    return Table("t", "Title", caption, columns, rows, "answer")


def structure_problems(text: str) -> list[str]:
    """Environments that are not closed in order, and rows that do not have their tabular's columns."""
    problems, stack = [], []
    plain = re.sub(r"\\begin\{tabular\}\[b\].*?\\end\{tabular\}", "HEAD", text, flags=re.S)
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
        if kind == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            problems.append(f"end of {name}")
    for layout, body in re.findall(r"\\begin\{tabular\}\{@\{\}(.*?)@\{\}\}\n(.*?)\\end\{tabular\}", plain, flags=re.S):
        width = len(re.sub(r">\{[^}]*\}p\{[^}]*\}", "p", layout))
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        problems += [row for row in rows if len(re.findall(r"(?<!\\)&", row)) != width - 1]
    return problems + stack


def compiled(text: str, folder: Path) -> str:
    """The log of a real engine. Fails when it finds an error."""
    (folder / "t.tex").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [str(ENGINE), "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"],
        cwd=folder, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    log = (folder / "t.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-3000:]
    return log


def test_every_table_of_a_report_is_well_formed(sweep_records: SweepRecords) -> None:
    page = page_tables(sweep_records)
    assert not structure_problems(latex_document(page))
    assert all(f"\\label{{tab:{one.name.replace('_', '-')}}}" in to_latex(one) for one in page)


def test_check_of_the_structure_finds_a_lost_column_and_an_open_environment() -> None:
    text = to_latex(table((Cell("a"), Cell(0.5)), (Cell("b"), Cell(0.6))))
    assert structure_problems(text.replace("b & 0.600", "b 0.600"))
    assert structure_problems(text.replace(r"\end{table}", ""))


@pytest.mark.skipif(ENGINE is None, reason="no pdflatex on this machine")
def test_all_tables_of_a_report_compile_and_none_leaves_the_page(sweep_records: SweepRecords, tmp_path: Path) -> None:
    log = compiled(latex_document(page_tables(sweep_records)), tmp_path)
    assert "Overfull \\hbox" not in log
    assert "Float too large" not in log


@pytest.mark.skipif(ENGINE is None, reason="no pdflatex on this machine")
def test_any_text_compiles(tmp_path: Path) -> None:
    nasty = table((Cell(NASTY), Cell(0.5)), (Cell("[x] * first"), Cell(0.6)), caption=NASTY)
    compiled(latex_document([nasty]), tmp_path)


@pytest.mark.skipif(ENGINE is None, reason="no pdflatex on this machine")
def test_fragments_compile_from_their_folder(sweep_records: SweepRecords, tmp_path: Path) -> None:
    one = tables.triple(sweep_records)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "triple.tex").write_text(to_latex(one), encoding="utf-8")
    text = latex_document([one], folder="tables")
    assert r"\input{tables/triple}" in text
    compiled(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [("a_b & 5 %", r"a\_b \& 5 \%"), ("0.7 ± 0.1 ≈", r"0.7 $\pm$ 0.1 $\approx$"), ("\\x{", r"\textbackslash{}x\{"),
     ("a\n\nb", "a b"), ("中", "{[}U+4E2D{]}"), ("é", "é")],
)  # fmt: skip
def test_text_is_printed_as_it_is(text: str, escaped: str) -> None:
    assert escape_latex(text) == escaped


@pytest.mark.parametrize(
    ("flag", "style"), [("best", r"\textbf{0.500}"), ("second", r"\underline{0.500}"), ("oracle", r"\textcolor{gray}{")]
)
def test_ranks_and_the_oracle_are_marked(flag: Flag, style: str) -> None:
    assert style in to_latex(table((Cell("a"), Cell(0.5).marked(flag))))


def test_wide_table_goes_on_below_itself_with_the_names_of_its_rows() -> None:
    columns = (NAME, *(Column(f"c{at}", f"column {at}", spread=True) for at in range(30)))
    text = to_latex(table((Cell("row_name"), *(Cell(0.5, 0.1, n=3) for _ in range(30))), columns=columns))
    parts = text.count(r"\toprule")
    assert parts == text.count(r"row\_name") > 1
    assert not structure_problems(text)
    assert max(len(line) for line in text.splitlines() if line.startswith("row")) < 3 * WIDEST


def test_long_table_goes_on_on_further_pages_and_loses_no_row() -> None:
    text = to_latex(table(*((Cell(f"row {at}"), Cell(at / 100)) for at in range(95))))
    assert text.count(r"\begin{table}") == text.count("(part ") > 1
    assert [int(at) for at in re.findall(r"^row (\d+) &", text, flags=re.M)] == list(range(95))
    assert text.count("Caption.") == 1


def test_same_tables_give_the_same_bytes(sweep_records: SweepRecords) -> None:
    first, second = (latex_document([tables.matrix(sweep_records)]) for _ in range(2))
    assert first == second


def test_document_without_tables_says_so() -> None:
    assert "No tables." in latex_document([])
