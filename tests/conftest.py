"""What tests of several rooms share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .s3_server import Service, serving

Offer = Callable[..., str]


@functools.cache
def with_ray(path: str) -> bool:
    """Whether a file of tests starts Ray."""
    return "pytest.mark.ray" in (Path(__file__).parents[1] / path).read_text(encoding="utf-8")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a process of pytest-xdist: files with Ray first, then whole sweeps, so that no process ends long before the other."""
    if hasattr(config, "workerinput"):
        files = {item.path for item in items}
        early = {path: (not with_ray(str(path)), path.parent != Path(__file__).parent) for path in files}
        items.sort(key=lambda item: early[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With pytest-xdist, a file's tests stay together, and all files with Ray in one process: two at a time would starve."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "ray" if with_ray(path) else path

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session")
def s3_service() -> Iterator[Service]:
    """A local S3 service, and the environment that finds it."""
    pytest.importorskip("moto", reason="the local S3 service is not installed: pip install -e '.[dev]'")
    pytest.importorskip("s3fs", reason="s3:// is not installed: pip install -e '.[s3]'")
    with serving() as service:
        yield service


@pytest.fixture
def s3_folder(s3_service: Service) -> str:
    """Address of an empty folder of it."""
    return s3_service.folder()


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Make up an installed distribution with one module and one entry point of a group; returns the module's name."""
    numbers = itertools.count()

    def run(
        code: str, *, group: str, entry: str = "mine", attribute: str = "Mine", dist: str, version: str = "1.2"
    ) -> str:
        folder, module = tmp_path / dist, f"offered_{tmp_path.name}_{next(numbers)}".replace("-", "_")
        info = folder / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (folder / f"{module}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry} = {module}:{attribute}\n")
        monkeypatch.syspath_prepend(folder)
        return module

    return run
