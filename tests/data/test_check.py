from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gkd_bench.config.data import Volumes
from gkd_bench.config.schema import Prepare, Scale
from gkd_bench.data import domain as domain_module
from gkd_bench.data.catalogue import Catalogue, open_reader
from gkd_bench.data.check import best_shift, check_domains, preflight, vessel_width
from gkd_bench.data.prepare import prepare_domain

Layout = Callable[..., Path]


def test_sound_domains_pass_and_leave_pictures_and_a_table(tmp_path: Path) -> None:
    report = check_domains(["phantom_clear", "phantom_warm"], Catalogue(), tmp_path / "out")
    assert report.ok
    assert not any(domain.warnings for domain in report.domains)
    text = (tmp_path / "out" / "check.txt").read_text()
    assert text.strip() == report.text()
    assert "6/2/4" in text
    with Image.open(tmp_path / "out" / "phantom_clear.png") as sheet:
        assert sheet.width > 400
        assert np.asarray(sheet).std() > 10


def test_missing_data_set_is_reported_beside_sound_ones(tmp_path: Path) -> None:
    report = check_domains(["phantom_dim", "drive", "no_such"], Catalogue(tmp_path), tmp_path / "out")
    assert not report.ok
    assert [bool(domain.problems) for domain in report.domains] == [False, True, True]
    text = report.text()
    assert "drive.grand-challenge.org" in text
    assert "unusable" in text


def spoil_labels(root: Path, change: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]) -> None:
    for raw in open_reader("hrf", root).images()[:2]:
        assert raw.label is not None
        with Image.open(raw.label) as picture:
            label = change(np.asarray(picture))
        Image.fromarray(label).save(raw.label)


def test_shifted_label_is_found(tmp_path: Path) -> None:
    reader = open_reader("phantom_clear")
    rgb, label, fov = reader.read(reader.images()[0])
    green, inside = np.ascontiguousarray(rgb[..., 1]), fov.astype(np.uint8)
    assert best_shift(green, label.astype(np.uint8), inside)[0] == (0, 0)
    for moved in ((4, 0), (-4, 6)):
        shifted = np.roll(label, moved, (0, 1)).astype(np.uint8)
        assert best_shift(green, shifted, inside)[0] == (-moved[0], -moved[1])


def test_label_of_background_instead_of_vessels_is_a_problem(layout: Layout, tmp_path: Path) -> None:
    root = layout("hrf")
    spoil_labels(root, lambda label: np.roll(label, (-14, 12), (0, 1)))
    report = check_domains(["hrf"], Catalogue(root, Prepare(clahe=None, scale=Scale(rule="none"))), tmp_path / "out")
    named = {line.split(":")[0] for line in report.domains[0].problems}
    assert named == {"01_dr", "01_g"}


def test_subject_without_a_split_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {f"{i:02d}": "train" for i in range(1, 12)}
    monkeypatch.setattr(domain_module, "read_splits", lambda name: splits)
    assert open_reader("phantom_dim").problems() == ["subject 12 is in no split"]


def test_check_reports_grey_labels(layout: Layout, tmp_path: Path) -> None:
    root = layout("hrf")
    spoil_labels(root, lambda label: np.where(label > 0, 255, 100).astype(np.uint8))
    report = check_domains(["hrf"], Catalogue(root), tmp_path / "out")
    assert not report.ok
    assert len(report.domains[0].problems) == 2
    assert all("neither dark nor bright" in line for line in report.domains[0].problems)
    assert "neither dark nor bright" in report.text()


def test_preflight_collects_the_errors_of_all_domains(layout: Layout) -> None:
    root = layout("stare")
    image = open_reader("stare", root).images()[0].image
    assert image is not None
    image.write_bytes(image.read_bytes()[:200])
    errors = preflight(["phantom_clear", "stare", "hrf", "nonsense"], Catalogue(root))
    assert list(errors) == ["stare", "hrf", "nonsense"]
    assert str(image) in str(errors["stare"])


def test_preflight_does_not_decode_prepared_domains_again(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = layout("hrf")
    settings = Prepare(scale=Scale(rule="none"))
    prepare_domain("hrf", Catalogue(root, settings), tmp_path / "cache")
    monkeypatch.setattr(domain_module.PhotographReader, "item_problems", lambda self, raw, deep: ["decoded"] * deep)
    assert preflight(["hrf"], Catalogue(root, settings), tmp_path / "cache") == {}
    assert list(preflight(["hrf"], Catalogue(root))) == ["hrf"]


@pytest.mark.parametrize("width", [2, 3, 5, 8])
def test_vessel_width_of_bars_is_their_width(width: int) -> None:
    label = np.zeros((100, 100), np.bool_)
    label[10:90, 20 : 20 + width] = True
    assert vessel_width(label) == pytest.approx(width, rel=0.06 * width)
    assert vessel_width(np.zeros((9, 9), np.bool_)) == 0.0


def test_colour_photographs_and_several_classes_are_checked_too(layout: Layout, tmp_path: Path) -> None:
    colour = Prepare(channel="rgb", scale=Scale(rule="none"))
    report = check_domains(["hrf"], Catalogue(layout("hrf"), colour), tmp_path)
    assert report.domains[0].images and report.domains[0].sheet is not None


def test_stacks_have_a_table_of_their_own_and_pictures(tmp_path: Path) -> None:
    report = check_domains(["phantom_mr", "phantom_clear"], Catalogue(volumes=Volumes(size=40)), tmp_path)
    assert report.ok
    (line,) = [line for line in report.text().splitlines() if line.startswith("phantom_mr ")]
    for part in ("12", "192", "146", "6/2/4", "80x80", "5.5 x 4 x 4"):
        assert part in line
    assert (tmp_path / "phantom_mr.png").stat().st_size > 10_000
