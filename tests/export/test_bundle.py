from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gkd_bench import cli
from gkd_bench.data.windows import Floats
from gkd_bench.errors import GkdBenchError
from gkd_bench.export import bundle, choice, model_file
from gkd_bench.export.bundle import export_run, replaced_folder
from gkd_bench.export.choice import Wish, choose_training, read_wish
from gkd_bench.export.compare import differences, real_batches, require_close
from gkd_bench.export.facts import Facts, from_properties, from_text
from gkd_bench.export.model_file import open_model
from gkd_bench.store.artefacts import open_store

from .conftest import EVALUATE, METHODS, SOURCE, SWEEP, TARGET, TILE, Export, Sweep, network

RUN_ID = "0123456789abcdef" * 2


def read_facts(exported: Export) -> Facts:
    return from_text((exported.folder / "metadata.json").read_text(), "here")


def test_export_holds_four_files_and_says_how_far_they_are_from_the_network(exported: Export) -> None:
    names = sorted(path.name for path in exported.folder.iterdir())
    assert names == ["README.md", "metadata.json", "model.onnx", "model.pt2"]
    for name in ("onnx", "pt2"):
        (line,) = [line for line in exported.lines if line.startswith(f"{name}: largest difference")]
        assert float(re.findall(r"model (\S+) over", line)[0]) < 1e-4


def test_validation_decides_which_training_is_exported_and_not_the_test_scores(exported: Export, sweep: Sweep) -> None:
    facts = read_facts(exported)
    assert (facts.method, facts.seed, facts.key) == ("gkd", 1, sweep.keys["gkd", 1])
    assert "no test score was read" in facts.chosen and facts.chosen in exported.lines[0]


def test_facts_are_the_same_in_every_file(exported: Export) -> None:
    facts = read_facts(exported)
    assert open_model(exported.folder / "model.onnx").facts == facts
    assert open_model(exported.folder / "model.pt2").facts == facts


def test_facts_are_those_of_training_scoring_and_preparation(exported: Export, sweep: Sweep) -> None:
    facts, manifest = read_facts(exported), sweep.domains[SOURCE].manifest
    assert (facts.tile, facts.overlap, facts.threshold) == (TILE, EVALUATE["overlap"], EVALUATE["threshold"])
    assert facts.prepare.model_dump(mode="json") == manifest.settings
    assert facts.working.factor == manifest.factor
    assert facts.working.fov_width == pytest.approx(120)


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_file_computes_what_the_network_of_its_seed_computes(name: str, exported: Export, sweep: Sweep) -> None:
    batches = real_batches(sweep.domains[SOURCE].source_splits().val, TILE, 3)
    run = open_model(exported.folder / name).run
    (own,) = differences(network(1), {name: run}, batches, 0.45)
    (other,) = differences(network(0), {name: run}, batches, 0.45)
    assert own.largest < 1e-4 < 0.01 < other.largest
    assert own.pixels == sum(batch.size for batch in batches)


def test_format_that_differs_is_refused_and_leaves_nothing(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(path: Path) -> SimpleNamespace:
        right = open_model(path).run
        return SimpleNamespace(run=lambda images: right(images) + np.float32(2e-4))

    monkeypatch.setattr(bundle, "open_model", wrong)
    with pytest.raises(GkdBenchError, match=r"nothing was exported(.|\n)*pt2: largest difference .* 0.0002"):
        export_run(sweep.request(SWEEP, tmp_path / "out", formats=("pt2",)), lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite_or_of_another_shape_are_too_far() -> None:
    batch: Floats = np.full((1, 1, 32, 32), 0.5, np.float32)
    runs = {"nan": lambda images: images * np.float32(np.nan), "cut": lambda images: images[..., 1:]}
    found = differences(network(0), runs, [batch], 0.5)
    assert [one.largest for one in found] == [float("inf"), float("inf")]
    with pytest.raises(GkdBenchError, match="nan"):
        require_close(found, 1.0)


def test_earlier_export_is_replaced_and_other_folders_are_not(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("old", "new"):
        with replaced_folder(target) as aside:
            (aside / "metadata.json").write_text(text)
    assert (target / "metadata.json").read_text() == "new"
    (target / "thesis.tex").touch()
    with pytest.raises(GkdBenchError, match="not an export"), replaced_folder(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---------------------------------------------------------------- the card


def test_card_has_what_somebody_needs_who_has_only_the_files(exported: Export) -> None:
    text = (exported.folder / "README.md").read_text()
    for title in ("Use", "Scores", "The method over all seeds", "What it costs", "Data and licence", "Limits"):
        assert f"## {title}" in text
    assert "gkd-bench predict model PHOTOS" in text
    assert "no medical device" in text
    assert "`methods.gkd.intra`: `0.1`" in text


def test_card_compares_the_method_with_teacher_and_student_alone_on_every_target(exported: Export) -> None:
    text = (exported.folder / "README.md").read_text()
    part = text.partition("## The method over all seeds")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| phantom")]
    assert [row[0].strip("| ") for row in rows] == [f"{SOURCE} ◦", TARGET]
    assert all(len(row) == 5 and all("±" in cell for cell in row[1:]) for row in rows)


def test_snippet_of_the_card_writes_a_mask(
    exported: Export, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = re.findall(r"```python\n(.*?)```", (exported.folder / "README.md").read_text(), re.DOTALL)[0]
    photo = next(photographs.glob("*.png"))
    for path, name in ((photo, "photo.png"), (exported.folder / "model.onnx", "model.onnx")):
        shutil.copy(path, tmp_path / name)
    (tmp_path / "snippet.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("snippet.py")
    mask = np.array(Image.open("mask.png"))
    assert mask.shape == np.array(Image.open(photo)).shape[:2]
    assert set(np.unique(mask)) == {0, 255}


# ---------------------------------------------------------------- which training


@pytest.mark.parametrize(
    ("run", "taken"),
    [
        (f"{SWEEP}/{SOURCE}/scratch", ("scratch", 0)),
        (f"{SWEEP}/{SOURCE}/gkd/0", ("gkd", 0)),
        (f"{SWEEP}/{SOURCE}/teacher", ("teacher", 0)),
        (SWEEP, ("gkd", 1)),
    ],
)
def test_parts_that_are_left_out_are_chosen_by_validation(run: str, taken: tuple[str, int], sweep: Sweep) -> None:
    one = choose_training(read_wish(run, sweep.results), open_store(sweep.store)).candidate
    assert (one.method, one.seed) == taken


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("other", "no finished sweep 'other'.*there are made_up"),
        (f"{SWEEP}/phantom_clea", "did you mean 'phantom_clear'"),
        (f"{SWEEP}/{SOURCE}/gdk", f"there are {', '.join(METHODS)}; did you mean 'gkd'"),
        (f"{SWEEP}/{SOURCE}/gkd/5", "seed '5' here: there are 0, 1"),
        (f"{SWEEP}/{SOURCE}/gkd/x", "must be a whole number"),
        ("a/b/c/0/e", "SWEEP"),
        ("a//c", "SWEEP"),
        (RUN_ID, "there is no mlflow.db"),
    ],
)
def test_unknown_run_says_what_there_is(run: str, message: str, sweep: Sweep) -> None:
    with pytest.raises(GkdBenchError, match=message):
        choose_training(read_wish(run, sweep.results), open_store(sweep.store))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"sweep": SWEEP, "gkd.id": "sweep"}, "the sweep's own run"),
        ({"sweep": SWEEP, "gkd.id": "study/3", "kind": "trial"}, "a trial of it, not a final training"),
        ({}, "not a run of a sweep"),
    ],
)
def test_run_of_mlflow_that_is_no_training_is_refused(
    tags: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").touch()
    run = SimpleNamespace(data=SimpleNamespace(tags=tags))
    monkeypatch.setattr(choice, "client_of", lambda backend: SimpleNamespace(get_run=lambda run_id: run))
    with pytest.raises(GkdBenchError, match=message):
        read_wish(RUN_ID, tmp_path)


def test_run_of_mlflow_stands_for_its_training(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    key = sweep.keys["scratch", 1]
    run = SimpleNamespace(
        data=SimpleNamespace(tags={"sweep": SWEEP, "gkd.id": key, "kind": "final", "gkd.method": "scratch"})
    )
    monkeypatch.setattr(choice, "client_of", lambda backend: SimpleNamespace(get_run=lambda run_id: run))
    wish = read_wish(RUN_ID, tmp_path)
    assert wish == Wish(SWEEP, method="scratch", key=key)
    taken = choose_training(wish, open_store(sweep.store))
    assert taken.candidate.model == key and taken.named


# ---------------------------------------------------------------- the command


def test_missing_package_names_the_extra(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "find_spec", lambda name: None)
    with pytest.raises(GkdBenchError, match=r"onnxscript(.*)pip install 'gkd-bench\[export\]'"):
        export_run(sweep.request(SWEEP, tmp_path / "out"))


@pytest.mark.parametrize("flag", [["--formats", "onx"], ["--formats", ""], ["--tolerance", "0"], ["--tiles", "0"]])
def test_wrong_flag_is_one_message(flag: list[str], sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", SWEEP, "--store", str(sweep.store), *flag]) == cli.EXIT_ERROR
    assert flag[0].lstrip("-") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a model"),
        ("[]", "no schema_version"),
        ('{"schema_version": 99}', "newer gkd-bench"),
        ('{"schema_version": 1}', "sweep: Field required"),
    ],
)
def test_foreign_metadata_is_refused(text: str, message: str) -> None:
    with pytest.raises(GkdBenchError, match=message):
        from_text(text, "file")


def test_onnx_file_of_somebody_else_is_refused() -> None:
    with pytest.raises(GkdBenchError, match="not a model of `gkd-bench export`"):
        from_properties({"author": "somebody"}, "model.onnx")
