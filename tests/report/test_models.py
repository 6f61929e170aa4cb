"""Registers tiny students in a real database, loads them back with MLflow alone, and compares what they predict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gkd_bench.networks.base import class_probabilities, foreground_probability
from gkd_bench.networks.build import build
from gkd_bench.report.backend import Backend, Tracked, client_of
from gkd_bench.report.extras import Extras
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import Card
from gkd_bench.report.models import deployable, example_tiles, register, selected_cards
from gkd_bench.report.tracking import write_tracking
from gkd_bench.stages.models import new_network

from .made_up import Record, make_origin
from .mlflow_help import TILE, WIDTH, new_backend, shown, small, student, students, weights

NAME = "gkd_bench.made_up.hrf"
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gkd_bench":
            raise ImportError("the package is not there")
sys.meta_path.insert(0, Refuse())
import numpy as np, mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(np.load(sys.argv[2])))
"""


@pytest.fixture(scope="module")
def records(made_up: list[Record]) -> SweepRecords:
    return SweepRecords.from_dicts(small(made_up), make_origin())


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return new_backend(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def tracked(records: SweepRecords, backend: Backend) -> Tracked:
    return write_tracking(records, backend, "models", shown(), Extras(students=students()))


@pytest.fixture
def card(records: SweepRecords) -> Card:
    return selected_cards(records, students())[0]


def version_of(backend: Backend) -> Any:
    return client_of(backend).get_model_version_by_alias(NAME, "selected")


def folder_of(backend: Backend) -> Path:
    client = client_of(backend)
    location = client.get_model_version_download_uri(NAME, version_of(backend).version)
    return Path(location.removeprefix("file://"))


def expected(seed: int, tiles: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    network = build("mobile_unet", WIDTH)
    network.load_state_dict(dict(weights(seed)))
    with torch.no_grad():
        result: np.ndarray[Any, np.dtype[np.float32]] = foreground_probability(
            network.eval()(torch.from_numpy(tiles))
        ).numpy()
    return result


def test_selected_student_is_registered_under_the_alias(tracked: Tracked, backend: Backend, card: Card) -> None:
    assert tracked.warning is None
    assert tracked.models == (NAME,)
    version = version_of(backend)
    assert version.tags["seed"] == str(card.candidate.seed)
    assert version.description.startswith(f"# {NAME}")
    run = client_of(backend).get_run(version.run_id)
    assert run.data.tags["selected"] == "yes"


@pytest.mark.parametrize("count", [1, 3])
def test_registered_model_predicts_what_the_student_does(
    tracked: Tracked, backend: Backend, card: Card, count: int
) -> None:
    import mlflow.pytorch

    tiles = np.random.default_rng(count).random((count, 1, TILE, TILE), np.float32)
    model = mlflow.pytorch.load_model(str(folder_of(backend)))
    with torch.no_grad():
        found = model(torch.from_numpy(tiles)).numpy()
    assert found.shape == (count, TILE, TILE)
    np.testing.assert_allclose(found, expected(card.candidate.seed, tiles), atol=1e-6)


@pytest.mark.slow
def test_line_of_the_card_works_where_this_package_is_not(
    tracked: Tracked, backend: Backend, card: Card, tmp_path: Path
) -> None:
    tiles = np.random.default_rng(7).random((2, 1, TILE, TILE), np.float32)
    np.save(tmp_path / "tiles.npy", tiles)
    words = [f"models:/{NAME}@selected", str(tmp_path / "tiles.npy"), str(tmp_path / "found.npy")]
    settings = {"MLFLOW_TRACKING_URI": backend.uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", ALONE, *words], check=True, env={**os.environ, **settings}, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected(card.candidate.seed, tiles), atol=1e-6)


def test_model_says_what_it_takes_gives_and_needs(tracked: Tracked, backend: Backend) -> None:
    from mlflow.models import Model

    folder = folder_of(backend)
    signature = Model.load(str(folder)).signature
    assert signature is not None and signature.inputs is not None and signature.outputs is not None
    assert signature.inputs.inputs[0].shape == (-1, 1, TILE, TILE)
    assert signature.outputs.inputs[0].shape == (-1, TILE, TILE)
    assert np.asarray(json.loads((folder / "input_example.json").read_text())).shape == (2, 1, TILE, TILE)
    needed = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert needed == {"mlflow", "numpy", "torch"}
    assert (folder / "README.md").read_text().startswith(f"# {NAME}")


def test_scores_are_listed_with_the_model_and_once_in_its_run(tracked: Tracked, backend: Backend) -> None:
    client = client_of(backend)
    (logged,) = client.search_logged_models([tracked.experiment_id])
    assert {metric.key for metric in logged.metrics} >= {"dice/hrf", "dice/stare", "foreign/dice"}
    assert len(client.get_metric_history(version_of(backend).run_id, "foreign/dice")) == 1


def test_same_content_makes_no_second_version(records: SweepRecords, tracked: Tracked, backend: Backend) -> None:
    again = write_tracking(records, backend, "models", shown(), Extras(students=students()))
    assert (again.written, again.models) == (0, (NAME,))
    assert len(client_of(backend).search_model_versions(f"name = '{NAME}'")) == 1


def test_new_scores_change_the_card_and_no_version(
    records: SweepRecords, tracked: Tracked, backend: Backend, card: Card
) -> None:
    client = client_of(backend)
    before = version_of(backend)
    changed = replace(card, records=replace(card.records, origin=make_origin(command="python -m other")))
    register(client, str(tracked.experiment_id), changed, before.run_id)
    after = version_of(backend)
    assert after.version == before.version
    assert "python -m other" in after.description and "python -m other" not in before.description
    register(client, str(tracked.experiment_id), card, before.run_id)


def test_new_content_makes_a_version_and_moves_the_alias(tmp_path: Path, card: Card) -> None:
    backend = new_backend(tmp_path)
    client = client_of(backend)
    experiment = client.create_experiment("moved", artifact_location=str(backend.artifacts))
    register(client, experiment, card, None)
    other = replace(card, student=replace(card.student, threshold=0.4))
    register(client, experiment, other, None)
    assert (version_of(backend).version, len(client.search_model_versions(f"name = '{NAME}'"))) == (2, 2)
    register(client, experiment, card, None)
    assert (version_of(backend).version, len(client.search_model_versions(f"name = '{NAME}'"))) == (1, 2)


def test_student_that_cannot_be_built_costs_a_warning_and_no_run(
    records: SweepRecords, tmp_path: Path, card: Card
) -> None:
    one = card.candidate
    broken = student(one.source, one.method, one.seed, network={"name": "no_net", "width": 1.0})
    backend = new_backend(tmp_path)
    found = write_tracking(records, backend, "broken", shown(), Extras(students=(broken,)))
    assert found.run_id is not None and found.models == ()
    assert found.warning is not None and "no_net" in found.warning
    (logged,) = client_of(backend).search_logged_models([found.experiment_id])
    assert str(logged.status).endswith("FAILED")


def test_deployable_gives_probabilities_of_the_foreground(card: Card) -> None:
    tiles = example_tiles(TILE)
    with torch.no_grad():
        found = deployable(card.student)(torch.from_numpy(tiles)).numpy()
    assert tiles.shape == (2, 1, TILE, TILE) and tiles.dtype == np.float32
    np.testing.assert_allclose(found, expected(card.candidate.seed, tiles), atol=1e-6)


def test_deployable_takes_colour_and_gives_a_probability_per_class(card: Card) -> None:
    spec = {"name": "little_unet", "width": 0.5, "in_channels": 3, "classes": 4}
    network = new_network(spec, 1, torch.device("cpu")).eval()
    one = replace(card.student, network=spec, weights=network.state_dict)
    tiles = example_tiles(TILE, 3)
    with torch.no_grad():
        found = deployable(one)(torch.from_numpy(tiles))
        expected = class_probabilities(network(torch.from_numpy(tiles)))
    assert found.shape == (2, 3, TILE, TILE)
    torch.testing.assert_close(found, expected)
