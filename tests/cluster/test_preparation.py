"""Volumes prepared on Ray are those prepared here, and small sets never start a Ray."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gkd_bench.cluster.preparation import raw_bytes, stack_mapper
from gkd_bench.config.data import Volumes
from gkd_bench.config.schema import Compute
from gkd_bench.data.catalogue import Catalogue
from gkd_bench.data.prepare import prepare_domain
from gkd_bench.data.stacks import StackJob
from gkd_bench.data.volumewriters import write_dicom_series, write_mask_pngs

PLACE = Catalogue(volumes=Volumes(size=32), classes=("liver",))


@pytest.mark.ray
def test_volumes_prepared_on_ray_are_those_prepared_here(tmp_path: Path) -> None:
    here = prepare_domain("phantom_mr", PLACE, tmp_path / "here")
    seen: list[int] = []
    there = prepare_domain(
        "phantom_mr",
        PLACE,
        tmp_path / "there",
        verify=True,
        mapper=stack_mapper(Compute(), worth=0),
        report=lambda done, of, slices: seen.append(done),
    )
    assert there.manifest == here.manifest  # checksums of every array included
    assert seen == list(range(13))


def test_small_sets_and_the_engine_without_ray_prepare_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gkd_bench.cluster.session", None)  # an import would fail
    prepare_domain("phantom_mr", PLACE, tmp_path / "a", mapper=stack_mapper(Compute()))
    prepare_domain("phantom_mr", PLACE, tmp_path / "b", mapper=stack_mapper(Compute(engine="inprocess"), worth=0))


def test_size_is_that_of_the_files_of_the_jobs(tmp_path: Path) -> None:
    import numpy as np

    for patient in ("1", "3"):
        folder = tmp_path / "CHAOS" / "CT" / patient
        write_dicom_series(folder / "DICOM_anon", np.zeros((3, 8, 8), np.int16), (2.0, 1.0, 1.0))
        write_mask_pngs(folder / "Ground", np.zeros((3, 8, 8), np.uint8), (255,))
    jobs = [StackJob(Catalogue(tmp_path), "chaos_ct", number, tmp_path) for number in (0, 1)]
    whole = sum(path.stat().st_size for path in (tmp_path / "CHAOS").rglob("*") if path.is_file())
    assert raw_bytes(jobs) == whole and 0 < raw_bytes(jobs[:1]) < whole
