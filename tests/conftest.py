"""What tests of several rooms share."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .s3_server import Service, serving

Offer = Callable[..., str]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With pytest-xdist, a file's tests stay together, and all that start a Ray run in one process: two at a time would starve."""
    with_ray = {item.path for item in items if item.get_closest_marker("ray")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in with_ray else str(item.path)))


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
