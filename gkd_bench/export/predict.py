"""``gkd-bench predict``: files and folders to masks, overlays and one line each, prepared and windowed as in the benchmark."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gkd_bench.data.domain import unreadable
from gkd_bench.data.imagefiles import UNREADABLE
from gkd_bench.errors import DataError, GkdBenchError
from gkd_bench.export.inputs import Wanted, find_files, output_names, table
from gkd_bench.export.model_file import ModelFile
from gkd_bench.export.segment import Photographs
from gkd_bench.export.segment_volume import VolumeFiles
from gkd_bench.store.files import replace_file

SUMMARY = "predictions.csv"


def predict_files(
    model: ModelFile, paths: Sequence[Path], wanted: Wanted, say: Callable[[str], None] = print
) -> list[str]:
    """Segment every file; one line per file that could not be, and the others are done.

    Args:
        model: the model.
        paths: files, and folders whose files are meant.
        wanted: what is to be done with them.
        say: is told what happens, line by line.

    Raises:
        GkdBenchError: a flag is wrong, or there is no file of the model's kind at all.
    """
    wanted.check(model.facts)
    one = VolumeFiles(model, wanted) if model.facts.volumes else Photographs(model, wanted)
    files, problems = find_files(paths, one.endings, one.refusal)
    if not files and not problems:
        raise GkdBenchError(f"no {one.kind} in {', '.join(map(str, paths))}: {one.refusal}")
    say(f"{model.facts.name}: {len(files)} {one.kind}")
    say(one.remark)
    rows = []
    for path, name in zip(files, output_names(files), strict=True):
        start = time.perf_counter()
        try:
            found = one.segment(path, name)
        except (GkdBenchError, *UNREADABLE) as error:
            problems.append(_problem(path, error))
            continue
        rows.append((str(path), *found.row, f"{time.perf_counter() - start:.2f}"))
        say(f"{path.name}: {found.words}")
    if rows:
        replace_file(wanted.output / SUMMARY, table(("file", *one.columns, "seconds"), rows))
    return problems


def _problem(path: Path, error: Exception) -> str:
    if isinstance(error, DataError):
        return "; ".join(error.problems)
    return str(error) if isinstance(error, GkdBenchError) else unreadable(path, error)
