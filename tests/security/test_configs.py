"""Sweep files of strangers: no code, no bombs, no name that is not on a list, no path that leaves its root."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gkd_bench.config.load import load_sweep
from gkd_bench.config.reader import YamlProblem, parse_value, parse_yaml
from gkd_bench.data.cache import domain_folder, open_prepared
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.manifest import Manifest, PreparedStack
from gkd_bench.errors import ConfigError, DataError, GkdBenchError, StoreError
from gkd_bench.export.bundle import default_folder
from gkd_bench.report.archive import is_sweep_name, load_sweep_records
from gkd_bench.store.artefacts import LocalStore

SWEEP: dict[str, Any] = {
    "name": "some",
    "task": "segmentation",
    "data": {"root": "/data", "domains": ["mine"], "classes": ["a"], "folders": {"mine": {"path": "set"}}},
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "some.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return path


def with_folder(folder: Path, **block: Any) -> Path:
    return written(folder, data={**SWEEP["data"], "folders": {"mine": {"path": "set", **block}}})


def test_the_plain_file_is_accepted(tmp_path: Path) -> None:
    assert load_sweep(written(tmp_path)).sweep.data.folders["mine"].names == "numbered"


# ---------------------------------------------------------------- YAML

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
)
MERGES = "a: &a {x: 1}\n" + "\n".join(
    f"b{i}: &b{i} {{<<: [{', '.join([f'*b{i - 1}' if i else '*a'] * 20)}]}}" for i in range(8)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [exit]",
        "a: !!python/object/new:os.system [exit]",
        "a: !!python/name:os.system ''",
        "a: !!python/module:os ''",
        "%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system [exit]",
        LAUGHS,
        MERGES,
        "a: &a [*a]",
        "a: " + "[" * 5000,
        "\n".join(" " * depth + "a:" for depth in range(600)),
        "a: " + "9" * 5000,
        "a: !!int 0x10",
        "a: !!bool maybe",
        "a: !!float xyz",
        'a: "\\0"',
        'a: "\\x1b[2J"',
        'a: "\\ud800"',
        'a: "\\u202egnp.exe"',
        '"\\x07": 1',
        "a: 1\na: 2",
    ],
)
def test_hostile_yaml_is_one_problem_and_soon_found(text: str) -> None:
    begin = time.process_time()
    with pytest.raises(YamlProblem) as caught:
        parse_yaml(text)
    assert time.process_time() - begin < 10
    assert all(str(line).isprintable() for line in caught.value.args)


@pytest.mark.parametrize("text", ["!!python/name:os.system", "'\x1b'", "9" * 5000, "&a [*a]"])
def test_values_of_the_command_line_are_read_in_the_same_way(text: str) -> None:
    with pytest.raises(YamlProblem):
        parse_value(text)


# ---------------------------------------------------------------- closed lists


@pytest.mark.parametrize(
    "changes",
    [
        {"networks": {"teacher": {"name": "os:system"}}},
        {"networks": {"student": {"name": "gkd_bench.networks.unet:UNet"}}},
        {"methods": {"os.system": {}}},
        {"methods": {"gkd": {"views": ["os:system"]}}},
        {"compute": {"engine": "os:system"}},
        {"compute": {"runner": "os:system"}},
        {"search": {"sampler": "os:system"}},
        {"selection": {"rule": "os:system"}},
        {"data": {**SWEEP["data"], "domains": ["os:system"]}},
        {"data": {**SWEEP["data"], "domains": ["../mine"]}},
    ],
)
def test_nothing_is_imported_by_a_name_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("gkd_bench.registry.import_module", lambda name: pytest.fail(f"imported {name}"))
    with pytest.raises(ConfigError):
        load_sweep(written(tmp_path, **changes))


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("path", ["..", "../other", "a/../../other", "a\\..\\b"])
def test_folders_below_the_data_root_stay_there(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.folders\.mine\.path: must stay below data\.root"):
        load_sweep(with_folder(tmp_path, path=path))


@pytest.mark.parametrize("key", ["images", "masks", "fov", "table"])
@pytest.mark.parametrize("value", ["../{name}.png", "/etc/{name}", "~/{name}", "a/../../{name}", "\\\\host\\{name}"])
def test_patterns_and_tables_stay_below_their_folder(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.folders\.mine\.{key}: must stay below the folder"):
        load_sweep(with_folder(tmp_path, **{key: value}))


def test_links_do_not_lead_out_of_a_folder_either(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "set"
    for folder in (outside, inside / "masks"):
        folder.mkdir(parents=True)
    for name in ("secret.png", "table.csv"):
        (outside / name).write_text("image,subject\n")
    (inside / "images").symlink_to(outside)
    (inside / "table.csv").symlink_to(outside / "table.csv")
    (inside / "one.png").symlink_to(outside / "secret.png")
    for block in ({}, {"images": "*.png", "table": "table.csv"}):
        sweep = load_sweep(with_folder(tmp_path, path=str(inside), **block)).sweep
        lines = Catalogue.of(sweep.data, sweep.classes).open("mine").problems()
        assert lines and any("outside" in line for line in lines), lines


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "/etc", "a\\b", ".hidden", "", "a\n"])
def test_names_of_sweeps_are_no_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="name: "):
        load_sweep(written(tmp_path, name=name))
    assert not is_sweep_name(name)
    (tmp_path / "store" / "x").mkdir(parents=True)
    for file in ("records.jsonl", "origin.json"):
        (tmp_path / "store" / "x" / file).write_text("{}\n")
    with pytest.raises(GkdBenchError, match="no finished sweep"):
        load_sweep_records(name, LocalStore(tmp_path / "store"))


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "a\\b", "", "a\0b"])
def test_prepared_data_are_found_by_plain_names_only(tmp_path: Path, name: str) -> None:
    for given in ((name, "0123"), ("phantom_clear", name)):
        with pytest.raises(StoreError, match="names no prepared domain"):
            domain_folder(tmp_path, *given)
        with pytest.raises(StoreError, match="names no prepared domain"):
            open_prepared(tmp_path, *given)


def test_manifests_name_files_of_their_own_folder_only() -> None:
    good: dict[str, Any] = {
        "domain": "a", "fingerprint": "b", "settings": {}, "reader_version": 1, "prepare_version": 1, "factor": 1.0,
        "fov_diameter": 1.0,
    }  # fmt: skip
    stack: dict[str, Any] = {
        "name": "a", "subject": "a", "split": "test", "size": (1, 1), "native_size": (1, 1), "spacing": None,
        "foreground": "1", "window": (0.0, 1.0),
    }  # fmt: skip
    assert Manifest.model_validate({**good, "checksums": {"images.npy": "x"}})
    assert PreparedStack.model_validate({**stack, "part": "00000"})
    for name in ("../x", "/etc/passwd", "a/b", "..", ""):
        with pytest.raises(ValueError, match="pattern"):
            Manifest.model_validate({**good, "checksums": {name: "x"}})
        with pytest.raises(ValueError, match="pattern"):
            PreparedStack.model_validate({**stack, "part": name})


def test_unknown_domains_open_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown domain"):
        Catalogue(tmp_path).open("../../etc")


def test_exports_of_foreign_records_stay_in_their_folder() -> None:
    class Sweep:
        name = "../../up"

    class Training:
        source, method, seed = "../../etc", "../x", 0

    class Choice:
        saved, candidate = Sweep, Training

    folder = default_folder(Choice)  # type: ignore[arg-type]
    assert folder.parent == Path("exports") and folder.name not in (".", "..")
