"""The pictures of a page: which ones, how small, and where each of them is seen. Equal input gives equal bytes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.extras import PNG, Picture, Role

BUDGET = 6_000_000
"""Characters of a page that pictures may take."""
ROLES: tuple[Role, ...] = ("fixed", "worst", "median", "best")
_KEPT_FIRST: tuple[Role, ...] = ("fixed", "worst", "best", "median")
_STEPS = ((480, 72), (400, 68), (320, 62), (260, 56), (200, 50))  # height in pixels, WebP quality
_SAMPLE = 24
_PARTS = ("photo", "label", "found")


@dataclass(frozen=True)
class Album:
    """Small pictures, each once, and the pictures they come from.

    Attributes:
        pictures: what is shown, in the order of the report's pictures; first seed of every cell only.
        files: name of a small picture -> it as a ``data:`` address.
        names: PNG bytes' digest -> name of the small picture.
        left_out: how many pictures did not fit.
        height: largest height of the small pictures, pixels.
    """

    pictures: tuple[Picture, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0
    height: int = 0

    def name(self, content: bytes) -> str:
        """Name of the small picture of PNG bytes. Raises KeyError for one that is not in the album."""
        return self.names[_digest(content)]


def make_album(pictures: Sequence[Picture], budget: int = BUDGET) -> Album:
    """Shrink the pictures of the first seed of every cell until they fit.

    They are made smaller step by step; where the smallest size is still too much, pictures of the least telling roles are
    left out: first median, then best, then worst.

    Args:
        pictures: all pictures of a report.
        budget: characters that all ``data:`` addresses together may have.

    Raises:
        GkdBenchError: a picture is no PNG.
    """
    chosen = first_seeds(pictures)
    if not chosen:
        return Album()
    contents = _contents(chosen)
    for height, quality in _steps_that_may_fit(list(contents.values()), budget):
        files = {digest: _data_address(content, height, quality) for digest, content in contents.items()}
        if sum(map(len, files.values())) <= budget:
            return _album(chosen, files, len(chosen), height)
    kept = _most_telling(chosen, files, budget)
    return _album(kept, files, len(chosen), height)


def first_seeds(pictures: Iterable[Picture]) -> list[Picture]:
    """The pictures of the smallest seed of every source, target and method, in their order."""
    listed = list(pictures)
    first: dict[tuple[str, str, str], int] = {}
    for one in listed:
        cell = (one.source, one.target, one.method)
        first[cell] = min(one.seed, first.get(cell, one.seed))
    return [one for one in listed if one.seed == first[one.source, one.target, one.method]]


def decoded(content: bytes) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 BGR pixels of PNG bytes. Raises GkdBenchError when they are none."""
    is_png = content.startswith(PNG)
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if is_png else None
    if pixels is None:
        raise GkdBenchError(f"a picture of {len(content)} bytes cannot be read as PNG; evaluate its network again")
    return np.asarray(pixels, np.uint8)


def shrunk(content: bytes, height: int, quality: int) -> bytes:
    """PNG bytes as WebP bytes, at most ``height`` pixels high."""
    pixels = decoded(content)
    if pixels.shape[0] > height:
        width = max(1, round(pixels.shape[1] * height / pixels.shape[0]))
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    done, buffer = cv2.imencode(".webp", pixels, [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise GkdBenchError(f"a picture of shape {pixels.shape} cannot be written as WebP; reinstall OpenCV")
    return bytes(buffer)


def _steps_that_may_fit(contents: Sequence[bytes], budget: int) -> Iterable[tuple[int, int]]:
    """The steps whose sample fits, the smallest one always; all pictures at every size would take too long."""
    sample = contents[:: max(1, len(contents) // _SAMPLE)]
    for step in _STEPS[:-1]:
        size = sum(len(_data_address(content, *step)) for content in sample)
        if size * len(contents) / len(sample) <= budget:
            yield step
    yield _STEPS[-1]


def _most_telling(pictures: Sequence[Picture], files: Mapping[str, str], budget: int) -> list[Picture]:
    left, seen, kept = budget, set[str](), set[int]()
    for at in sorted(range(len(pictures)), key=lambda at: (_importance(pictures[at]), at)):
        new = {_digest(content) for content in _parts(pictures[at])} - seen
        cost = sum(len(files[digest]) for digest in new)
        if cost <= left:
            left -= cost
            seen |= new
            kept.add(at)
    return [one for at, one in enumerate(pictures) if at in kept]


def _importance(picture: Picture) -> int:
    return min((_KEPT_FIRST.index(role) for role in picture.roles), default=len(_KEPT_FIRST))


def _album(pictures: Sequence[Picture], files: Mapping[str, str], wanted: int, height: int) -> Album:
    names = {digest: f"p{at}" for at, digest in enumerate(_contents(pictures))}
    shown = {name: files[digest] for digest, name in names.items()}
    return Album(tuple(pictures), shown, names, wanted - len(pictures), height)


def _contents(pictures: Iterable[Picture]) -> dict[str, bytes]:
    """Digest -> PNG bytes: all methods share the photo and the label of an image, which are kept once."""
    return {_digest(content): content for one in pictures for content in _parts(one)}


def _parts(picture: Picture) -> list[bytes]:
    return [getattr(picture, part) for part in _PARTS]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _data_address(content: bytes, height: int, quality: int) -> str:
    return f"data:image/webp;base64,{base64.b64encode(shrunk(content, height, quality)).decode()}"
