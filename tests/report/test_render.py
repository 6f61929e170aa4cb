from __future__ import annotations

import csv
import io

import pandas as pd
import pytest
from rich.console import Console

from gkd_bench.report import tables
from gkd_bench.report.cells import Cell, Column, Flag, Table
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.render import cell_text, to_csv, to_markdown, to_rich

TEXT = Column("name", "name")
SCORE = Column("dice", "Dice", "up", spread=True)
WHOLE = Cell(0.74321, 0.01234, 0.7123, 0.7712, 3, 20, 0.012)


def one(cell: Cell, column: Column = SCORE, *others: Cell) -> Table:
    return Table("t", "Title", "Caption.", (column,), tuple((row,) for row in (cell, *others)), "answer")


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO("".join(line for line in text.splitlines(True) if not line.startswith("#")))))


def shown(cell: Cell, column: Column = SCORE) -> str:
    return cell_text(one(cell, column), column, cell)


def test_reader_sees_mean_half_width_and_marks() -> None:
    assert shown(WHOLE.marked("in_domain").marked("better")) == "0.743 ± 0.012 * ◦"
    assert shown(Cell()) == "-"
    assert shown(Cell(flags=frozenset({"missing"}))) == "n/a"


def test_bootstrap_interval_is_shown_where_the_column_asks_for_it() -> None:
    column = Column("dice", "Dice", "up", True, interval=True)
    assert shown(WHOLE, column) == "0.743 ± 0.012 [0.71, 0.77]"
    assert shown(Cell(0.7431, None, 0.7412, 0.7448, 1), column) == "0.743 [0.741, 0.745]"
    assert shown(Cell(0.7, 0.1, n=2), column) == "0.700 ± 0.100"


def test_signed_column_shows_the_signs_of_number_and_interval() -> None:
    column = Column("gain", "gain", "up", spread=True, signed=True, interval=True)
    assert shown(Cell(0.01, None, -0.0021, 0.0821, 1), column) == "+0.010 [-0.002, +0.082]"


@pytest.mark.parametrize(("value", "text"), [(0.0312, "0.0312"), (7.6e-6, "7.6e-06"), (0.0, "0.0000"), (1.0, "1.0000")])
def test_tiny_p_is_not_shown_as_zero(value: float, text: str) -> None:
    assert shown(Cell(value), Column("p", "p", decimals=4)) == text


def test_counts_are_in_the_caption_when_equal_and_in_the_cells_when_not() -> None:
    full, half = Cell(0.5, 0.1, n=3), Cell(0.4, 0.1, n=2)
    assert "Caption. n = 3." in to_markdown(one(full))
    mixed = to_markdown(one(full, SCORE, half))
    assert "0.500 ± 0.100 (n = 3)" in mixed
    assert "0.400 ± 0.100 (n = 2)" in mixed


def test_markdown_shows_special_characters_as_they_are_on_one_line() -> None:
    text = to_markdown(one(Cell("a|b\n<i>*c*</i> [x](y)"), TEXT))
    assert text.splitlines()[-1] == r"| a\|b \<i\>\*c\*\</i\> \[x\](y) |"


@pytest.mark.parametrize(("flag", "text"), [("best", "**0.5**"), ("second", "<ins>0.5</ins>"), ("oracle", "*0.5*")])
def test_markdown_marks_ranks_and_the_oracle(flag: Flag, text: str) -> None:
    column = Column("dice", "Dice", "up", decimals=1)
    assert text in to_markdown(one(Cell(0.5).marked(flag), column))


def test_csv_cells_cannot_start_a_formula() -> None:
    texts = ["=1+1", "+x", "-x", "@x", "\t=x", "safe", "a,b"]
    table = one(Cell(texts[0]), TEXT, *(Cell(text) for text in texts[1:]))
    assert [row[0] for row in rows_of(to_csv(table))[1:]] == [*(f"'{text}" for text in texts[:5]), "safe", "a,b"]


def test_csv_comments_cannot_be_left_by_a_line_break() -> None:
    assert rows_of(to_csv(one(Cell("x"), TEXT), ["a\n=evil()\rb"])) == [["name"], ["x"]]


def test_csv_has_intervals_counts_and_p_in_columns_of_their_own() -> None:
    low = Cell(-0.123456789, 0.1, -0.2, 0.05, 3, 20, 0.04)
    rows = rows_of(to_csv(one(low, SCORE, Cell(), Cell(flags=frozenset({"missing"})))))
    parts = ("half", "low", "high", "n", "subjects", "p")
    assert rows[0] == ["dice", *(f"dice_{part}" for part in parts)]
    assert rows[1:] == [
        ["-0.123457", "0.1", "-0.2", "0.05", "3", "20", "0.04"],
        ["", "", "", "", "0", "0", ""],
        ["n/a", "", "", "", "0", "0", ""],
    ]


def test_csv_of_the_matrix_reads_back_in_pandas(sweep_records: SweepRecords) -> None:
    table = tables.matrix(sweep_records)
    frame = pd.read_csv(io.StringIO(to_csv(table, ["command: x"])), comment="#", index_col="source")
    assert frame.at["hrf", "stare"] == pytest.approx(table.rows[1][3].value, abs=1e-6)
    assert set(frame["stare_n"]) == {3}
    assert (frame["stare_low"] < frame["stare"]).all() and (frame["stare"] < frame["stare_high"]).all()


def test_same_table_gives_the_same_bytes(sweep_records: SweepRecords) -> None:
    first, second = tables.triple(sweep_records), tables.triple(sweep_records)
    assert to_csv(first).encode() == to_csv(second).encode()
    assert to_markdown(first) == to_markdown(second)


def test_terminal_takes_text_literally_and_says_everything() -> None:
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(to_rich(one(Cell("[bold]x[/bold]"), TEXT, Cell(flags=frozenset({"missing"})))))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]x[/bold]" in text
    assert "n/a" in text
    assert "Caption." in text


def test_terminal_underlines_the_second_and_greys_the_oracle() -> None:
    table = to_rich(one(Cell(0.5).marked("second"), SCORE, Cell(0.6).marked("oracle"), Cell(0.7).marked("best")))
    styles = [str(cell.style) for cell in table.columns[0].cells]  # type: ignore[union-attr]
    assert styles == ["underline", "bright_black italic", "bold"]
