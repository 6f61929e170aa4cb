from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

from gkd_bench import __version__, cli


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gkd_bench.cli", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("arguments", [["--help"], ["data", "check", "--help"], ["report", "--help"], ["--version"]])
def test_help_answers(arguments: list[str]) -> None:
    """That it answers at once is held by what importing the command loads; see below."""
    assert run(*arguments).returncode == 0


def test_version_is_the_package_s() -> None:
    assert run("--version").stdout.strip() == f"gkd-bench {__version__}"


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, gkd_bench.cli; "
        "sys.exit(str({'ray', 'torch', 'mlflow', 'numpy', 'pydantic', 'yaml'} & set(sys.modules) or ''))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr.strip() == ""
    )


def test_mistake_is_one_message_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", "--domains", "hfr"]) == cli.EXIT_ERROR
    error = capsys.readouterr().err
    assert "did you mean 'hrf'?" in error
    assert "Traceback" not in error


def test_check_needs_a_file_or_domains(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check"]) == cli.EXIT_ERROR
    assert "give a sweep file, or --domains" in capsys.readouterr().err


def test_a_report_of_an_unknown_sweep_says_which_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "nothing", "--store", str(tmp_path)]) == cli.EXIT_ERROR
    assert "no finished sweep 'nothing'" in capsys.readouterr().err


def test_a_dashboard_without_a_database_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dashboard", "--results", str(tmp_path), "--no-browser"]) == cli.EXIT_ERROR
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_unknown_command_is_refused() -> None:
    assert run("swep").returncode == 2


class Report:
    ok = True

    def text(self) -> str:
        return "the table"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Calls that reach the data room."""
    calls: list[tuple] = []
    module = types.ModuleType("gkd_bench.data.check")
    module.check_domains = lambda *arguments: calls.append(arguments) or Report()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gkd_bench.data.check", module)
    return calls


def test_check_prints_its_table_and_fails_for_bad_data(
    checked: list[tuple], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "check", "--domains", "phantom_dim"]) == 0
    assert capsys.readouterr().out == "the table\n"
    monkeypatch.setattr(Report, "ok", False)
    assert cli.main(["data", "check", "--domains", "phantom_dim"]) == cli.EXIT_ERROR


def test_check_s_root_replaces_the_file_s(checked: list[tuple], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ndata: {domains: [stare], root: '${NOT_SET_ANYWHERE}'}\n")
    assert cli.main(["data", "check", str(path), "--root", "/given: here"]) == 0
    assert checked[0][1].root == Path("/given: here")


def test_check_by_sweep_file_uses_its_domains_root_and_preparation(checked: list[tuple], tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: a\ndata: {domains: [stare], root: /sets, prepare: {channel: luminance}}\n")
    assert cli.main(["data", "check", str(path), "--out", str(tmp_path)]) == 0
    ((names, catalogue, out),) = checked
    assert (tuple(names), catalogue.root, out) == (("stare",), Path("/sets"), tmp_path)
    assert (catalogue.prepare.channel, catalogue.classes) == ("luminance", ("vessel",))


def test_check_by_names_takes_the_root_of_the_environment(
    checked: list[tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GKD_DATA_ROOT", "/env")
    assert cli.main(["data", "check", "--domains", "stare", "hrf"]) == 0
    assert cli.main(["data", "check", "--domains", "stare", "--root", "/given"]) == 0
    assert [call[1].root for call in checked] == [Path("/env"), Path("/given")]


def test_sweep_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    module = types.ModuleType("gkd_bench.sweep")
    module.main = lambda arguments: seen.append(arguments) or 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gkd_bench.sweep", module)
    assert cli.main(["sweep", "a.yaml", "--profile", "small", "--plan"]) == 3
    assert seen == [["a.yaml", "--profile", "small", "--plan"]]
