"""What the tests of MLflow share: an empty database that is made once, tiny students, and a sweep's run to show."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gkd_bench.networks.build import build
from gkd_bench.report.backend import DATABASE, Backend, client_of, resolve_backend
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.extras import Extras, Student
from gkd_bench.report.parent import Shown

from .made_up import DOMAINS, SEEDS, Record, model_key

TILE, WIDTH = 32, 0.1


def small(records: list[Record]) -> list[Record]:
    """One source, two seeds, three methods, a trial of every state."""
    methods = ("teacher", "scratch", "gkd", "student")
    kept = [r for r in records if r["source"] in ("hrf", None) and r["seed"] < 2 and r["method"] in methods]
    return [record for record in kept if record.get("trial") in (None, 0, 1, 2)]


def new_backend(folder: Path) -> Backend:
    """An empty database in a folder. MLflow needs five seconds to make one, so all are copies of the first."""
    shutil.copy(_template(), folder / DATABASE)
    return resolve_backend(None, folder)


@functools.cache
def _template() -> Path:
    backend = resolve_backend(None, Path(tempfile.mkdtemp()))
    client_of(backend).search_experiments()
    assert backend.database is not None
    return backend.database


def weights(seed: int) -> Mapping[str, Tensor]:
    return build("mobile_unet", WIDTH, seed=seed).state_dict()


def student(source: str, method: str, seed: int, **changes: Any) -> Student:
    network, prepare = {"name": "mobile_unet", "width": WIDTH}, {"channel": "green", "scale": {"rule": "none"}}
    facts = {"network": network, "tile": TILE, "prepare": prepare, "threshold": 0.5, "weights": lambda: weights(seed)}
    return Student(model_key(method, source, seed), source, method, seed, **{**facts, **changes})


def students() -> tuple[Student, ...]:
    methods = ("scratch", "kd", "gkd", "gkd_intra")
    return tuple(student(source, method, seed) for source in DOMAINS for method in methods for seed in SEEDS)


def extras() -> Extras:
    return Extras(students=students())


def shown(dice: float = 0.7, rows: int = 1) -> Shown:
    """An answer, a table of two columns and two files."""
    columns = (Column("target", "target"), Column("gkd", "GKD", "up"))
    table = Table("triple", "Dice", "Means.", columns, ((Cell("stare"), Cell(dice)),) * rows, "answer")
    return Shown("GKD is best.", (table,), {"index.html": b"<h1>made up</h1>", "figures/matrix.png": b"\x89PNG"})
