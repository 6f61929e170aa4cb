"""Pickles that betray that somebody unpickled them, by making a folder."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any


class Bomb:
    """Makes the folder ``mark`` when it is unpickled; harmless otherwise."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def bomb(mark: Path, protocol: int = 2) -> bytes:
    """A pickle that makes a folder."""
    return pickle.dumps(Bomb(mark), protocol)
