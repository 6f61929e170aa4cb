"""What ``gkd-bench predict`` is asked for: files, folders, what their results are called, and what is done with them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gkd_bench.errors import GkdBenchError
from gkd_bench.export.facts import Facts
from gkd_bench.export.scale import ScaleChoice
from gkd_bench.report.render import safe_cell

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".ppm", ".ppm.gz")
NIFTI = (".nii", ".nii.gz")
OURS = ("_mask", "_overlay", "_probability")


@dataclass(frozen=True)
class Wanted:
    """What is to be done with every image.

    Attributes:
        output: folder for the results.
        threshold: probability from which a pixel is foreground; none = the model's.
        scale: how the pixel scale of photographs is decided.
        probability: write 16-bit probabilities of photographs as well.
    """

    output: Path
    threshold: float | None = None
    scale: ScaleChoice = field(default_factory=ScaleChoice)
    probability: bool = False

    def check(self, facts: Facts) -> None:
        """Raise GkdBenchError for a flag that is wrong, or that this model has no use for."""
        self.scale.check()
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise GkdBenchError(f"--threshold must lie between 0 and 1, found {self.threshold:g}")
        if self.threshold is not None and len(facts.class_names) > 1:
            raise GkdBenchError(
                f"--threshold: of {len(facts.class_names)} classes the most probable is taken; leave it out"
            )
        foreign = [*self.scale.given(), *(["--probability"] if self.probability else [])]
        if facts.volumes and foreign:
            raise GkdBenchError(
                f"{' and '.join(foreign)}: for photographs only; {facts.name} is a model of volumes, whose slices are resized "
                "as in training; leave it out"
            )


@dataclass(frozen=True)
class Found:
    """What was found in one file, once it is written.

    Attributes:
        row: cells of its line in the summary, without the file and the seconds.
        words: the same for people.
    """

    row: tuple[str, ...]
    words: str


def find_files(paths: Iterable[Path], endings: Sequence[str], refusal: str) -> tuple[list[Path], list[str]]:
    """Files by their endings, folders opened (not their sub-folders) without what this command wrote there.

    Args:
        paths: files and folders.
        endings: what the names of files that are meant end in.
        refusal: what is said of a file with another ending, behind its path.

    Returns:
        The files, each once, and a line per path that is none.
    """
    files: list[Path] = []
    problems: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if ends_in(one, endings) and not one.name.startswith("."))
            files += [one for one in inside if not stem_of(one).endswith(OURS)]
        elif not path.is_file():
            problems.append(f"{path}: there is no such file or folder")
        elif not ends_in(path, endings):
            problems.append(f"{path}: {refusal}")
        else:
            files.append(path)
    return list(dict.fromkeys(files)), problems


def ends_in(path: Path, endings: Sequence[str]) -> bool:
    """Whether the name ends so, in capital letters or not."""
    return path.name.lower().endswith(tuple(endings))


def stem_of(path: Path) -> str:
    """The name without its ending."""
    return path.name.removesuffix(".gz").removesuffix(".GZ").rpartition(".")[0]


def output_names(files: Sequence[Path]) -> list[str]:
    """A name for the results of each file: its stem, with as much of its suffix, folder and place as tells files apart."""
    stems = Counter(map(stem_of, files))
    first = [stem_of(path) if stems[stem_of(path)] == 1 else path.name.replace(".", "_") for path in files]
    again = Counter(first)
    second = [
        name if again[name] == 1 else f"{path.resolve().parent.name}_{name}"
        for path, name in zip(files, first, strict=True)
    ]
    last = Counter(second)
    return [name if last[name] == 1 else f"{at}_{name}" for at, name in enumerate(second)]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """A CSV file. Texts, such as names of files, cannot start a formula."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows(map(safe_cell, row) for row in (columns, *rows))
    return stream.getvalue().encode()
