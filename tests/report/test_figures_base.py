from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest
from PIL import Image

from gkd_bench.report.figures.axes import legend_columns, plain, short_number, shortened, signed
from gkd_bench.report.figures.base import DPI, Figure, file_name, finish, panels, style


def drawn(name: str = "one", words: str = "alt") -> Figure:
    with style():
        drawing, axes = panels(1, 2, 3.5, 1.5)
        axes[0].plot([0, 1], [0, 1])
        axes[1].scatter([0, 1], [1, 0], rasterized=True)
        axes[1].set_title("cost in $ and 5 % of $x$")
        return finish(drawing, name, "cost", "A <title>", "A  caption\n here", words)


def test_equal_drawings_give_equal_bytes() -> None:
    assert drawn() == drawn()


def test_files_are_what_they_claim_and_carry_no_date() -> None:
    figure = drawn()
    assert figure.pdf.startswith(b"%PDF") and b"CreationDate" not in figure.pdf
    assert b"date" not in figure.svg.lower()
    picture = Image.open(io.BytesIO(figure.png))
    assert picture.size == (round(3.5 * DPI), round(1.5 * DPI)) and not picture.info.get("Software")


def test_svg_is_described_for_screen_readers_and_well_formed() -> None:
    root = ET.fromstring(drawn(words="low & high < 1").svg)
    names = {"s": "http://www.w3.org/2000/svg"}
    title, words = root.find("s:title", names), root.find("s:desc", names)
    assert title is not None and words is not None
    assert title.text == "A <title>" and words.text == "low & high < 1"
    assert root.get("role") == "img" and root.get("aria-labelledby") == f"{title.get('id')} {words.get('id')}"


def test_two_svgs_in_one_page_share_no_id_and_every_reference_resolves() -> None:
    texts = [drawn(name).svg.decode() for name in ("one", "two")]
    ids = [set(re.findall(r'\sid="([^"]+)"', text)) for text in texts]
    assert ids[0] and not ids[0] & ids[1]
    for text, mine in zip(texts, ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) <= {
            pair for name in mine for pair in ((name, ""), ("", name))
        }


def test_captions_are_one_line() -> None:
    assert drawn().caption == "A caption here"


def test_look_does_not_leak_out_and_user_settings_do_not_leak_in() -> None:
    plain_bytes = drawn().png
    with mpl.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "red"}):
        assert drawn().png == plain_bytes
        assert mpl.rcParams["font.size"] == 20


def test_file_names_are_plain() -> None:
    assert file_name("Paired", "my method/2 ↑") == "paired_my-method-2"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0124, "+0.012"), (-0.0126, "\u22120.013"), (0.0001, "0.000"), (-0.0001, "0.000")]
)
def test_signed_numbers_have_a_true_minus_and_no_signed_zero(value: float, text: str) -> None:
    assert signed(value) == text


def test_plain_numbers() -> None:
    assert plain(-1.5, 1) == "\u22121.5" and plain(-0.0001) == "0.000" and plain(0.71234) == "0.712"
    assert [short_number(value) for value in (0.03, 30, 17_000, 2.5e6, 3e9)] == ["0.03", "30", "17 k", "2.5 M", "3 G"]


def test_long_names_are_cut_in_the_middle_to_the_width() -> None:
    cut = shortened("phantom_domain_number_7", 0.8)
    assert len(cut) <= 13 and cut.startswith("phan") and cut.endswith("_7") and "\u2026" in cut
    assert shortened("hrf", 0.8) == "hrf"


def test_legend_has_as_many_columns_as_fit_evenly() -> None:
    assert legend_columns(["kd"] * 7, 7.0) == 4
    assert legend_columns(["a rather long name of a method"] * 6, 7.0) == 2
    assert legend_columns(["x" * 500], 7.0) == 1
