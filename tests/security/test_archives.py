"""Archives of strangers; more of them are in ``tests/data/test_unpack.py``. Here: everything at once, and what is read before that."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gkd_bench.data.unpack import unpack
from gkd_bench.errors import DataError


def header(name: str, size: int, kind: bytes) -> bytes:
    """A tar header that says whatever it is told to."""
    made = tarfile.TarInfo(name)
    made.type = kind
    block = bytearray(made.tobuf(tarfile.USTAR_FORMAT)[:512])
    block[124:136] = b"\xff" * 4 + struct.pack(">q", size) if size < 0 else b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def remarks(kind: bytes) -> Callable[[Path], Path]:
    """A small archive with 100 MB of remarks on its one entry."""

    def write(folder: Path) -> Path:
        path, size = folder / "a.tar.gz", 100 * 2**20
        with gzip.open(path, "wb", compresslevel=1) as out:
            out.write(header("r", size, kind))
            for _ in range(size >> 20):
                out.write(b"a" * 2**20)
            out.write(header("file", 0, tarfile.REGTYPE) + bytes(1024))
        return path

    return write


def negative(folder: Path) -> Path:
    (folder / "a.tar").write_bytes(header("ok", 0, b"0") + header("a", -1024, b"0") + bytes(1024))
    return folder / "a.tar"


def linked(kind: bytes, target: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with tarfile.open(folder / "a.tar", "w") as archive:
            for name in ("link", "link/evil"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = (kind, target) if name == "link" else (tarfile.REGTYPE, "")
                archive.addfile(entry)
        return folder / "a.tar"

    return write


def device(kind: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with tarfile.open(folder / "a.tar", "w") as archive:
            entry = tarfile.TarInfo("dev")
            entry.type = kind
            archive.addfile(entry)
        return folder / "a.tar"

    return write


def zipped(names: list[str], mode: int = 0, content: bytes = b"x") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, content)
        return folder / "a.zip"

    return write


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "name above": zipped(["ok", "../../evil"]),
    "name from the root": zipped(["/evil"]),
    "name of another system": zipped(["..\\evil"]),
    "name of a drive": zipped(["C:/evil"]),
    "name of a home": zipped(["~/evil"]),
    "name twice": zipped(["a", "./a"]),
    "name with a line": zipped(["a\nb"]),
    "link in a zip": zipped(["link"], stat.S_IFLNK | 0o777, b"/etc/passwd"),
    "device in a zip": zipped(["dev"], stat.S_IFCHR | 0o666),
    "bomb": zipped([f"{number}" for number in range(11)], content=bytes(10**7)),
    "link out": linked(tarfile.SYMTYPE, "../../"),
    "link to the root": linked(tarfile.SYMTYPE, "/tmp"),
    "hard link out": linked(tarfile.LNKTYPE, "../../../../etc/passwd"),
    "character device": device(tarfile.CHRTYPE),
    "block device": device(tarfile.BLKTYPE),
    "pipe": device(tarfile.FIFOTYPE),
    "negative size": negative,
    "long name": remarks(tarfile.GNUTYPE_LONGNAME),
    "long link": remarks(tarfile.GNUTYPE_LONGLINK),
    "remarks": remarks(tarfile.XHDTYPE),
    "remarks on all": remarks(tarfile.XGLTYPE),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_write_nothing_and_take_little_memory(what: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "side").mkdir(parents=True)
    archive = HOSTILE[what](tmp_path)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            unpack(archive, tmp_path / "in" / "side" / "out")
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


def test_who_may_look_into_a_data_set_is_for_the_users_umask_to_say(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("set/a.png")
        entry.size = 1
        archive.addfile(entry, io.BytesIO(b"x"))
    before = os.umask(0o077)
    try:
        unpack(tmp_path / "a.tar", tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
