from __future__ import annotations

import csv
import io

import pandas as pd
from rich.console import Console

from gkd_bench.report import tables
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.render import cell_text, to_csv, to_markdown, to_rich

TEXT = Column("name", "name")
SCORE = Column("dice", "Dice", "up", spread=True)


def one(cell: Cell, column: Column = SCORE, *others: Cell) -> Table:
    return Table("t", "Title", "Caption.", (column,), tuple((row,) for row in (cell, *others)))


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO("".join(line for line in text.splitlines(True) if not line.startswith("#")))))


def test_reader_sees_mean_spread_and_marks() -> None:
    cell = Cell(0.74321, 0.01234, 3, frozenset({"in_domain"}))
    assert cell_text(one(cell), SCORE, cell) == "0.743 ± 0.012 ◦"
    assert cell_text(one(Cell()), SCORE, Cell()) == "-"
    assert cell_text(one(Cell()), SCORE, Cell(flags=frozenset({"missing"}))) == "n/a"


def test_counts_are_in_the_caption_when_equal_and_in_the_cells_when_not() -> None:
    full, half = Cell(0.5, 0.1, 3), Cell(0.4, 0.1, 2)
    assert "Caption. n = 3." in to_markdown(one(full))
    mixed = to_markdown(one(full, SCORE, half))
    assert "0.500 ± 0.100 (n = 3)" in mixed
    assert "0.400 ± 0.100 (n = 2)" in mixed


def test_signed_column_shows_the_plus() -> None:
    column = Column("gain", "gain", "up", spread=True, signed=True)
    assert cell_text(one(Cell(0.01, None, 1), column), column, Cell(0.01, None, 1)) == "+0.010"


def test_markdown_shows_special_characters_as_they_are_on_one_line() -> None:
    text = to_markdown(one(Cell("a|b\n<i>*c*</i> [x](y)"), TEXT))
    assert text.splitlines()[-1] == r"| a\|b \<i\>\*c\*\</i\> \[x\](y) |"


def test_markdown_bolds_the_best() -> None:
    assert "**0.500 ± 0.100**" in to_markdown(one(Cell(0.5, 0.1, 3, frozenset({"best"}))))


def test_csv_cells_cannot_start_a_formula() -> None:
    texts = ["=1+1", "+x", "-x", "@x", "\t=x", "safe", "a,b"]
    table = one(Cell(texts[0]), TEXT, *(Cell(text) for text in texts[1:]))
    assert [row[0] for row in rows_of(to_csv(table))[1:]] == [*(f"'{text}" for text in texts[:5]), "safe", "a,b"]


def test_csv_comments_cannot_be_left_by_a_line_break() -> None:
    assert rows_of(to_csv(one(Cell("x"), TEXT), ["a\n=evil()\rb"])) == [["name"], ["x"]]


def test_csv_keeps_negative_numbers_and_six_digits() -> None:
    rows = rows_of(to_csv(one(Cell(-0.123456789, 0.1, 3), SCORE, Cell(), Cell(flags=frozenset({"missing"})))))
    assert rows == [["dice", "dice_sd", "dice_n"], ["-0.123457", "0.1", "3"], ["", "", "0"], ["n/a", "", "0"]]


def test_csv_of_the_matrix_reads_back_in_pandas(sweep_records: SweepRecords) -> None:
    table = tables.matrix(sweep_records)
    frame = pd.read_csv(io.StringIO(to_csv(table, ["command: x"])), comment="#", index_col="source")
    assert abs(frame.at["hrf", "stare"] - table.rows[1][3].value) < 1e-6
    assert set(frame["stare_n"]) == {3}


def test_same_table_gives_the_same_bytes(sweep_records: SweepRecords) -> None:
    first, second = tables.triple(sweep_records), tables.triple(sweep_records)
    assert to_csv(first).encode() == to_csv(second).encode()
    assert to_markdown(first) == to_markdown(second)


def test_terminal_takes_text_literally_and_says_everything() -> None:
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(to_rich(one(Cell("[bold]x[/bold]"), TEXT, Cell(flags=frozenset({"missing"})))))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]x[/bold]" in shown
    assert "n/a" in shown
    assert "Caption." in shown
