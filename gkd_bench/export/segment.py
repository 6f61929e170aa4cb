"""``gkd-bench predict``: a folder of photographs to masks, overlays and one line each, prepared and windowed as in the benchmark."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_bench.data.domain import RawPixels, unreadable
from gkd_bench.data.imagefiles import UNREADABLE, compute_fov, read_rgb
from gkd_bench.data.prepare import prepare_image
from gkd_bench.data.windows import Floats, slide
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.model_file import ModelFile
from gkd_bench.export.scale import ScaleChoice, image_factor
from gkd_bench.metrics.pictures import FALSE_NEGATIVE, encode_png
from gkd_bench.store.files import replace_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".ppm", ".ppm.gz")
SUMMARY = "predictions.csv"
OURS = ("_mask", "_overlay", "_probability")
_BATCH = 16
_LEAST_FOV = 0.05  # of the picture; below it, what was found is a reflex and not the retina
_TINT = 0.65
_COLUMNS = ("file", "width", "height", "scale", "field_of_view", "foreground_share", "seconds")


@dataclass(frozen=True)
class Wanted:
    """What is to be done with every image.

    Attributes:
        output: folder for the results.
        threshold: probability from which a pixel is foreground; none = the model's.
        scale: how the pixel scale is decided.
        probability: write 16-bit probabilities as well.
    """

    output: Path
    threshold: float | None = None
    scale: ScaleChoice = field(default_factory=ScaleChoice)
    probability: bool = False


@dataclass(frozen=True)
class Prediction:
    """One image and what was found in it.

    Attributes:
        rgb: (height, width, 3) uint8, the photograph.
        fov: (height, width) bool; all true where no field of view was found.
        probability: (height, width) float32 in [0, 1] at native size, 0 outside the field of view.
        mask: (height, width) bool.
        factor: working pixels per native pixel.
    """

    rgb: NDArray[np.uint8]
    fov: NDArray[np.bool_]
    probability: Floats
    mask: NDArray[np.bool_]
    factor: float


def predict_files(
    model: ModelFile, paths: Sequence[Path], wanted: Wanted, say: Callable[[str], None] = print
) -> list[str]:
    """Segment every image; one line per file that could not be, and the others are done.

    Args:
        model: the model.
        paths: files, and folders whose pictures are meant.
        wanted: what is to be done with them.
        say: is told what happens, line by line.

    Raises:
        GkdBenchError: a flag is wrong, or there is no picture at all.
    """
    wanted.scale.check()
    if wanted.threshold is not None and not 0 < wanted.threshold < 1:
        raise GkdBenchError(f"--threshold must lie between 0 and 1, found {wanted.threshold:g}")
    files, problems = find_images(paths)
    if not files and not problems:
        raise GkdBenchError(f"no picture in {', '.join(map(str, paths))}; pictures end in {', '.join(SUFFIXES)}")
    say(f"{model.facts.name}: {len(files)} images")
    say(wanted.scale.words(model.facts))
    rows = []
    for path, name in zip(files, output_names(files), strict=True):
        start = time.perf_counter()
        try:
            found = predict_image(model, read_photograph(path), wanted)
            _write(found, wanted, name)
        except (GkdBenchError, *UNREADABLE) as error:
            problems.append(str(error) if isinstance(error, GkdBenchError) else unreadable(path, error))
            continue
        rows.append(_row(path, found, time.perf_counter() - start))
        say(f"{path.name}: {wanted.output / name}_mask.png, {rows[-1][5]} foreground, scale {rows[-1][3]}")
    if rows:
        replace_file(wanted.output / SUMMARY, _table(rows))
    return problems


def find_images(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The pictures, folders opened (not their sub-folders) without what this command wrote there; and a line per path that is none."""
    files: list[Path] = []
    problems: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if is_picture(one) and not one.name.startswith("."))
            files += [one for one in inside if not stem_of(one).endswith(OURS)]
        elif not path.is_file():
            problems.append(f"{path}: there is no such file or folder")
        elif not is_picture(path):
            problems.append(f"{path}: not a picture that is read; those end in {', '.join(SUFFIXES)}")
        else:
            files.append(path)
    return list(dict.fromkeys(files)), problems


def is_picture(path: Path) -> bool:
    """Whether the name ends like a picture's."""
    return path.name.lower().endswith(SUFFIXES)


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


def read_photograph(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) uint8. Raises GkdBenchError for pictures of more than 8 bits, OSError for torn ones."""
    if path.suffix.lower() != ".gz":
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise GkdBenchError(f"{path}: has more than 8 bits per channel; convert it to 8 bits first")
    return read_rgb(path)


def predict_image(model: ModelFile, rgb: NDArray[np.uint8], wanted: Wanted) -> Prediction:
    """One photograph through the benchmark's preparation, windows and resizing."""
    facts = model.facts
    fov = _field_of_view(rgb)
    factor = image_factor(wanted.scale, facts, fov)
    probability = np.where(fov, native_probability(model, rgb, fov, factor), np.float32(0.0))
    return Prediction(rgb, fov, probability, probability >= (wanted.threshold or facts.threshold), factor)


def native_probability(model: ModelFile, rgb: NDArray[np.uint8], fov: NDArray[np.bool_], factor: float) -> Floats:
    """Foreground probability at native size: predicted at the working scale, resized bilinearly, as when it was scored."""
    facts, (height, width) = model.facts, rgb.shape[:2]
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    pixels = RawPixels(rgb, np.zeros_like(fov), fov)
    grey, _, _ = prepare_image(pixels, facts.prepare, size)
    found = slide(grey, facts.tile, model.tile_probability, facts.overlap, _BATCH)
    resized = cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(resized, 0.0, 1.0), dtype=np.float32)


def draw_overlay(rgb: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The photograph, grey, with the mask in sky blue; (height, width, 3) uint8."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    picture = np.repeat(grey[..., None], 3, axis=2)
    picture[mask] = (1 - _TINT) * picture[mask] + _TINT * np.asarray(FALSE_NEGATIVE, np.float32)
    return np.asarray(np.rint(picture), np.uint8)


def _field_of_view(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The field of view, or the whole picture where there is no dark surround to tell it by."""
    found = compute_fov(rgb)
    return found if found.mean() >= _LEAST_FOV else np.ones_like(found)


# ---------------------------------------------------------------- results


def _write(found: Prediction, wanted: Wanted, name: str) -> None:
    """Each file appears whole or not at all; the mask, which says that an image is done, comes last."""
    parts = {"_overlay": draw_overlay(found.rgb, found.mask)}
    if wanted.probability:
        levels = np.asarray(np.rint(found.probability * 65535.0), np.uint16)
        replace_file(wanted.output / f"{name}_probability.png", encode_png(levels))
    parts["_mask"] = found.mask.astype(np.uint8) * np.uint8(255)
    for end, picture in parts.items():
        replace_file(wanted.output / f"{name}{end}.png", encode_png(picture))


def _row(path: Path, found: Prediction, seconds: float) -> tuple[str, ...]:
    height, width = found.mask.shape
    share = float(found.mask.sum()) / max(1, int(found.fov.sum()))
    whole = f"{found.fov.mean():.4f}"
    return str(path), str(width), str(height), f"{found.factor:.4f}", whole, f"{share:.4f}", f"{seconds:.2f}"


def _table(rows: Iterable[Sequence[str]]) -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    return stream.getvalue().encode()
