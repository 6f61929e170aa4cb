"""The benchmarks end with code 1 when their target is missed. What they measure is faked: nothing is timed here."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    return module


@pytest.mark.parametrize(("fresh", "code"), [(1.04, 0), (1.06, 1)])
def test_loader_ends_with_1_when_too_little_speed_is_kept(
    monkeypatch: pytest.MonkeyPatch, fresh: float, code: int
) -> None:
    loader = load("loader", monkeypatch)
    monkeypatch.setattr(loader, "measure", lambda options: ([(fresh, 9.0)] * 3, [(1.0, 1.0)] * 3))
    assert loader.main() == code


@pytest.mark.parametrize(
    ("overhead", "code", "missed"), [(1.9, 0, ()), (2.5, 1, ("2.50 s",)), (3.5, 1, ("3.50 s", "5.8 %"))]
)
def test_orchestration_ends_with_1_when_trials_cost_too_much(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overhead: float,
    code: int,
    missed: tuple[str, ...],
) -> None:
    bench = load("orchestration", monkeypatch)
    ours = bench.Cost("persistent group", 10, 30.0, 30.0 + 10 * overhead)
    slow = bench.Cost("TorchTrainer per trial", 3, 9.0, 99.0)  # has no target
    monkeypatch.setattr(bench, "RaySession", lambda *_, **__: nullcontext(SimpleNamespace(folder=Path())))
    monkeypatch.setattr(bench, "persistent_groups", lambda *_: nullcontext())
    monkeypatch.setattr(bench, "measure_persistent", lambda *_: ours)
    monkeypatch.setattr(bench, "measure_trainers", lambda *_: slow)
    assert bench.main() == code
    verdict = capsys.readouterr().out.partition("missed:")[2]
    assert bool(verdict) == bool(code) and all(words in verdict for words in missed)
