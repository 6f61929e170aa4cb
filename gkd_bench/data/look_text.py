"""A guess about a folder as YAML with comments: the block alone, or a sweep file that runs."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from gkd_bench.data.look import Guess

WIDTH = 512  # pixels of a photograph's field of view, at most
SIDE = 256  # pixels of a slice's longer side, at most
SHOWN = 8
_ORDER = (
    "kind", "modality", "images", "masks", "fov", "subject", "table", "levels", "spacing",
)  # fmt: skip
_ALWAYS = ("kind", "images", "masks")
_HEAD = """\
# Written by `gkd-bench data init` from a look at its files: {images} images, {subjects} subjects. Nothing in it is certain: go through
# the lines with "check this", then look at the pictures of `gkd-bench data check`.
"""
_TAIL = """\
pairs: {{sources: [{name}], targets: all}}

seeds: [0]

compute:
  engine: ray
  pools: [{{groups: 1, workers: 1, cpus: 2}}]

profiles:
  small:  # slim networks and short budgets, to see that everything runs: its scores mean nothing
    networks:
      teacher: {{name: unet, width: 0.125}}
      student: {{name: mobile_unet, width: 0.25}}
      semantic_width: 0.125
      header: {{dim: 64}}
    stages:
      teacher: {{epochs: 2, epoch_steps: 20, batch: 8}}
      baseline: {{epochs: 2, epoch_steps: 20, batch: 8}}
      semantic:
        autoencoder: {{epochs: 1, epoch_steps: 10, batch: 8}}
        vector: {{epochs: 1, epoch_steps: 10, batch: 8}}
      alignment: {{epochs: 1, epoch_steps: 10, batch: 8}}
      distill: {{epochs: 1, epoch_steps: 20, batch: 8, warmup_epochs: 0}}
"""


def block_text(guess: Guess) -> str:
    """The ``data`` block, ready to be pasted into a sweep file."""
    return _wrong(guess) + _HEAD.format(images=guess.images, subjects=guess.subjects or "?") + _data(guess)


def sweep_text(guess: Guess, file: Path) -> str:
    """A whole sweep file, to be written to ``file``, on this data set alone."""
    lines = [
        f"# Run it:    python -m gkd_bench.sweep {file} --profile small   (then without --profile)",
        "# One domain tells nothing about other scanners: add a second one to data.domains to measure that.",
        _wrong(guess) + _HEAD.format(images=guess.images, subjects=guess.subjects or "?"),
        f"name: {guess.name}",
        "task: segmentation",
        "",
        _data(guess),
        _TAIL.format(name=guess.name),
    ]
    return "\n".join(lines)


def _wrong(guess: Guess) -> str:
    lines = [f"# wrong: {line}" for line in guess.problems[:SHOWN]]
    more = len(guess.problems) - SHOWN
    return "".join(f"{line}\n" for line in [*lines, *([f"# wrong: and {more} more"] if more > 0 else [])])


def _data(guess: Guess) -> str:
    lines = [
        "data:",
        "  folders:",
        f"    {guess.name}:",
        *_line("path", guess.block.path, guess.checks.get("path", ""), 3),
    ]
    settings = guess.block.model_dump(mode="json")
    for key in _ORDER:
        if key in (*_ALWAYS, *guess.checks) or settings[key] not in (None, type(guess.block).model_fields[key].default):
            lines += _line(key, settings[key], guess.checks.get(key, ""), 3)
    lines += [
        f"  domains: [{guess.name}]",
        *_line("classes", list(guess.classes), guess.checks.get("classes", "what the masks mark; choose the names"), 1),
        *_preparation(guess),
    ]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, check: str, depth: int) -> list[str]:
    indent = "  " * depth
    wrapped = textwrap.wrap(f"check this: {check}", 110 - len(indent)) if check else []
    return [*(f"{indent}# {piece}" for piece in wrapped), f"{indent}{key}:{_value(value)}"]


def _value(value: Any) -> str:
    if value is None:
        return " null"
    if isinstance(value, dict):
        return " {" + ", ".join(f"{key}:{_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return " [" + ", ".join(_value(one).strip() for one in value) + "]"
    return f" {quoted(value) if isinstance(value, str) else value}"


def quoted(text: str) -> str:
    """Text as YAML: in single quotes, in which nothing but these has a meaning, unless it is a plain word."""
    return text if text.replace("_", "").isalnum() and text[0].isalpha() else "'" + text.replace("'", "''") + "'"


def _preparation(guess: Guess) -> list[str]:
    height, width = guess.size
    if guess.block.kind == "photograph":
        seen = f"images have {width}x{height} pixels, with a field of view {guess.field} pixels wide"
        scale = min(WIDTH, guess.field) or WIDTH
        return [
            f"  prepare:  # {seen}",
            "    channel: rgb  # green is usual for vessels of the retina",
            f"    scale: {{rule: fov_width, value: {scale}}}",
        ]
    spacing = f", {' x '.join(f'{one:g}' for one in guess.spacing)} mm" if guess.spacing else ""
    return [
        f"  volumes:  # slices have {width}x{height} pixels{spacing}",
        f"    size: {max(32, min(SIDE, max(guess.size)))}",
    ]
