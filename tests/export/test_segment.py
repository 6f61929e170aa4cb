from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gkd_bench import cli
from gkd_bench.data.catalogue import open_reader
from gkd_bench.data.imagefiles import compute_fov
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.inputs import PICTURES, Wanted, find_files, output_names
from gkd_bench.export.model_file import open_model
from gkd_bench.export.predict import predict_files
from gkd_bench.export.scale import ScaleChoice, image_factor
from gkd_bench.export.segment import read_photograph
from gkd_bench.stages.predict import predict_slices

from .conftest import EVALUATE, TARGET, TILE, Export, Sweep, network


def quiet(line: str) -> None:
    """Says nothing."""


def read(path: Path) -> NDArray[np.uint8]:
    return np.array(Image.open(path))


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_masks_are_those_that_the_benchmark_scores(
    name: str, exported: Export, sweep: Sweep, photographs: Path, tmp_path: Path
) -> None:
    """Prepared arrays, sliding window and resizing of the evaluate stage, with the torch network, against the command."""
    domain = sweep.domains[TARGET]
    scale = ScaleChoice(factor=domain.manifest.factor)
    assert predict_files(open_model(exported.folder / name), [photographs], Wanted(tmp_path, scale=scale), quiet) == []
    images, seen = domain.test_split().images, 0
    for index in [index for index in range(len(images)) if (photographs / f"{images.name(index)}.png").exists()]:
        shape = images.native_label(index).shape
        image = images.image(index)[None]
        working = predict_slices(network(1), image, TILE, torch.device("cpu"), EVALUATE["overlap"])[0, 0]
        probability = cv2.resize(working, shape[::-1], interpolation=cv2.INTER_LINEAR)
        mask = read(tmp_path / f"{images.name(index)}_mask.png")
        fov = compute_fov(read(photographs / f"{images.name(index)}.png"))
        assert np.mean(fov == (images.native_fov(index) > 0)) > 0.98
        decided = (np.abs(probability - EVALUATE["threshold"]) > 1e-4) & fov
        assert np.array_equal(mask[decided] > 0, probability[decided] >= EVALUATE["threshold"])
        assert set(np.unique(mask)) == {0, 255}
        seen += 1
    assert seen == 2


def test_both_formats_give_the_same_pictures(exported: Export, photographs: Path, tmp_path: Path) -> None:
    for name in ("onnx", "pt2"):
        wanted = Wanted(tmp_path / name, probability=True)
        predict_files(open_model(exported.folder / f"model.{name}"), [photographs], wanted, quiet)
    for path in (tmp_path / "onnx").glob("*_probability.png"):
        one, other = (read(tmp_path / name / path.name).astype(int) for name in ("onnx", "pt2"))
        assert np.abs(one - other).max() <= 7  # 1e-4 of 65535
        assert one.max() > 255


def test_bad_files_are_named_and_the_others_done(
    exported: Export, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, *_ = sorted(photographs.glob("*.png"))
    torn, deep = tmp_path / "torn.png", tmp_path / "deep.png"
    torn.write_bytes(good.read_bytes()[:500])
    Image.fromarray(np.zeros((40, 40), np.uint16)).save(deep)
    notes, gone, out = tmp_path / "notes.txt", tmp_path / "gone.png", tmp_path / "out"
    notes.touch()
    words = [str(path) for path in (torn, notes, good, gone, deep)]
    assert cli.main(["predict", str(exported.folder), *words, "--output", str(out)]) == cli.EXIT_SOME_FAILED
    error = capsys.readouterr().err
    assert "4 could not be segmented" in error and "Traceback" not in error
    assert all(path.name in error for path in (torn, notes, gone, deep))
    assert sorted(path.name for path in out.iterdir()) == [
        f"{good.stem}_mask.png",
        f"{good.stem}_overlay.png",
        "predictions.csv",
    ]


def test_predictions_csv_says_what_was_found(exported: Export, photographs: Path, tmp_path: Path) -> None:
    predict_files(open_model(exported.folder), [photographs], Wanted(tmp_path), quiet)
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert len(rows) == 2
    for row in rows:
        photo, mask = read(Path(row["file"])), read(tmp_path / f"{Path(row['file']).stem}_mask.png")
        assert (int(row["height"]), int(row["width"])) == photo.shape[:2] == mask.shape
        share = (mask > 0).sum() / (float(row["field_of_view"]) * mask.size)
        assert float(row["foreground_share"]) == pytest.approx(share, abs=1e-3)


def test_higher_threshold_finds_less(exported: Export, photographs: Path, tmp_path: Path) -> None:
    found = []
    for threshold in (0.3, 0.7):
        folder = tmp_path / str(threshold)
        predict_files(open_model(exported.folder), [photographs], Wanted(folder, threshold=threshold), quiet)
        found.append(sum((read(path) > 0).sum() for path in folder.glob("*_mask.png")))
    assert found[0] > found[1]


def test_own_results_in_a_folder_are_not_segmented_again(tmp_path: Path) -> None:
    for name in ("a.png", "a_mask.png", "a_overlay.png", "a_probability.png", "b.JPG", "c.ppm.gz", "d.txt", ".e.png"):
        (tmp_path / name).touch()
    files, problems = find_files([tmp_path], PICTURES, "no picture")
    assert [path.name for path in files] == ["a.png", "b.JPG", "c.ppm.gz"] and problems == []


def test_files_of_one_name_do_not_overwrite_each_other() -> None:
    files = [Path("x/a.png"), Path("x/a.jpg"), Path("y/a.png"), Path("x/b.ppm.gz")]
    assert output_names(files) == ["x_a_png", "a_jpg", "y_a_png", "b"]


def test_folder_without_pictures_is_a_mistake(exported: Export, tmp_path: Path) -> None:
    with pytest.raises(GkdBenchError, match=r"no photographs in .* those end in"):
        predict_files(open_model(exported.folder), [tmp_path], Wanted(tmp_path / "out"), quiet)
    assert not (tmp_path / "out").exists()


def test_onnx_needs_neither_torch_nor_store_nor_results(exported: Export, photographs: Path, tmp_path: Path) -> None:
    alone = tmp_path / "model.onnx"
    alone.write_bytes((exported.folder / "model.onnx").read_bytes())
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['pandas'] = None; from gkd_bench import cli; "
        f"sys.exit(cli.main(['predict', {str(alone)!r}, {str(photographs)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "predictions").glob("*_mask.png"))) == 2


# ---------------------------------------------------------------- scale


def test_field_of_view_is_brought_to_the_sources_width(exported: Export) -> None:
    facts = open_model(exported.folder).facts
    fov = np.zeros((100, 80), np.bool_)
    fov[10:70, 5:75] = True
    assert image_factor(ScaleChoice(), facts, fov) == pytest.approx(facts.working.fov_width / 70)
    assert image_factor(ScaleChoice(factor=0.7), facts, fov) == 0.7
    assert image_factor(ScaleChoice(vessel_width=5), facts, fov) == pytest.approx(facts.working.vessel_width / 5)


def test_image_like_a_domains_is_scaled_by_the_benchmarks_rule(exported: Export, sweep: Sweep) -> None:
    facts, reader = open_model(exported.folder).facts, open_reader(TARGET)
    fov = reader.read(reader.images()[0]).fov
    assert image_factor(ScaleChoice(domain=TARGET), facts, fov) == pytest.approx(
        sweep.domains[TARGET].manifest.factor, rel=0.02
    )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (ScaleChoice(vessel_width=-1), "greater than 0"),
        (ScaleChoice(factor=0), "greater than 0"),
        (ScaleChoice(domain="stair"), "known are"),
        (ScaleChoice(factor=1, domain="stare"), "give one of them"),
    ],
)
def test_wrong_scale_is_a_mistake(choice: ScaleChoice, message: str) -> None:
    with pytest.raises(GkdBenchError, match=message):
        choice.check()


def test_absurd_scale_is_refused(exported: Export) -> None:
    with pytest.raises(GkdBenchError, match="cannot be meant"):
        image_factor(ScaleChoice(factor=300), open_model(exported.folder).facts, np.ones((4, 4), np.bool_))


# ---------------------------------------------------------------- wrong models


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2", "model.txt"])
def test_file_that_is_no_model_is_one_message(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("not a model")
    with pytest.raises(GkdBenchError, match=name):
        open_model(tmp_path / name)


def test_missing_model_and_empty_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(GkdBenchError, match="no such model"):
        open_model(tmp_path / "model.onnx")
    with pytest.raises(GkdBenchError, match=r"neither .* is in this folder"):
        open_model(tmp_path)


def test_picture_of_sixteen_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(GkdBenchError, match="8 bits"):
        read_photograph(tmp_path / "deep.png")
