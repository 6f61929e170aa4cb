"""Unpacks archives of data sets from anywhere: all of an archive or, if anything in it is suspicious, nothing.

Everything is unpacked into a hidden folder beside the target and moved into place at the end. An archive is refused for what its list of
contents says (names that lead outside, links that do, devices, encryption, absurd sizes), and again if its contents
exceed what the list said.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from filecmp import cmp
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, Self

from gkd_bench.errors import DataError

MOST_FILES = 500_000
MOST_BYTES = 500 * 10**9
MOST_RATIO = (
    200  # unpacked bytes for each packed one; masks of one level pack a thousandfold, but no data set is masks alone
)
SMALL = 100 * 10**6  # bytes for which no ratio is too large
MOST_HEADER = 2**20  # bytes of a long name or of other remarks on an entry
SHOWN = 10
_REMARKS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_CHUNK = 2**20
_TORN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    LZMAError,
)


class Member(NamedTuple):
    """An entry of an archive's list.

    Attributes:
        name: with ``/``.
        size: bytes announced.
        folder: whether it is one, which may be named twice.
        problem: what forbids it; empty if nothing does.
    """

    name: str
    size: int
    folder: bool
    problem: str


def unpack(archive: Path, target: Path) -> int:
    """Unpack a zip or tar archive, compressed or not, into a folder, which is made; returns the number of files.

    Files that are there already and equal are left alone.

    Raises:
        DataError: no archive, torn, suspicious, or with files that are there already and differ. The folder is unchanged then.
    """
    if not archive.is_file():
        raise DataError([f"{archive}: no such file"])
    target = target.expanduser().absolute()
    place = _existing(target)
    if not place.is_dir():
        raise DataError([f"{place}: is a file, so {target} cannot be made"])
    with _hidden(place) as hidden:
        _extract(archive, hidden)
        return _move(hidden, target)


@contextmanager
def _hidden(place: Path) -> Iterator[Path]:
    """A folder in one that nobody else can look into; who may see it once it is moved is for the user's umask to say."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=place))
    except OSError as error:
        raise DataError([f"{place}: nothing can be written there ({error.strerror})"]) from None
    try:
        (folder / "all").mkdir()
        yield folder / "all"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _existing(folder: Path) -> Path:
    """The folder's nearest ancestor that is there: on the same disk, so that files can be moved instead of copied."""
    return next(one for one in folder.parents if os.path.lexists(one))


def _extract(archive: Path, folder: Path) -> None:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _extract_zip(archive, opened, folder)
            return
        with tarfile.open(archive, tarinfo=_Entry) as opened_tar:
            _extract_tar(archive, opened_tar, folder)
    except tarfile.FilterError as error:
        raise DataError([f"{archive}: {error.tarinfo.name!r}: leads outside"]) from None
    except _Suspicious as error:
        raise DataError([f"{archive}: {error}; get it again"]) from None
    except _TORN as error:
        if isinstance(error, OSError) and error.errno:
            raise DataError([f"{archive}: cannot be unpacked ({error.strerror})"]) from None
        raise DataError(
            [f"{archive}: torn, or no zip or tar archive ({type(error).__name__}); download it again"]
        ) from None


# ---------------------------------------------------------------- what is refused


def _check(archive: Path, members: Iterable[Member]) -> None:
    """Raise DataError unless the list of contents can be trusted; it is read no further than the limits."""
    packed = archive.stat().st_size
    most = min(MOST_BYTES, max(SMALL, MOST_RATIO * packed))
    problems: list[str] = []
    total, seen = 0, set[str]()
    for number, member in enumerate(members, start=1):
        total += member.size
        name = str(PurePosixPath(member.name))
        problem = _name_problem(member.name) or member.problem or ("named twice" if name in seen else "")
        problems += [f"{archive}: {member.name!r}: {problem}"] if problem else []
        seen |= set() if member.folder else {name}
        if number > MOST_FILES or total > most:
            what = (
                f"more than {MOST_FILES} entries" if number > MOST_FILES else f"more than {most / 1e6:.0f} MB unpacked"
            )
            raise DataError([f"{archive}: {what}, from {packed / 1e6:.1f} MB; look at it with another program first"])
    if not seen and not problems:
        problems.append(f"{archive}: no file in it")
    if problems:
        more = [f"{archive}: and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError(
            [*problems[:SHOWN], *more], advice="Nothing was unpacked. Get the archive from its official source."
        )


def _name_problem(name: str) -> str:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts:
        return "leads outside by '..'"
    if name.startswith(("/", "\\", "~")) or parts[0].endswith(":"):
        return "an absolute name"
    return "" if name.isprintable() and name else "a name that cannot be printed"


# ---------------------------------------------------------------- zip


def _extract_zip(archive: Path, opened: zipfile.ZipFile, folder: Path) -> None:
    infos = opened.infolist()
    _check(archive, (Member(one.filename, one.file_size, one.is_dir(), _zip_problem(one)) for one in infos))
    for one in infos:
        place = folder / one.filename
        if one.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(one) as source, place.open("xb") as out:
            _copy(archive, one.filename, source, out, one.file_size)


def _zip_problem(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 0x1:
        return "encrypted; unpack it with its password by another program"
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a link"
    return "no file and no folder" if kind not in (0, stat.S_IFREG, stat.S_IFDIR) else ""


def _copy(archive: Path, name: str, source: IO[bytes], out: IO[bytes], size: int) -> None:
    """No more bytes than were announced, whatever the archive then contains."""
    left = size
    while block := source.read(_CHUNK):
        left -= len(block)
        if left < 0:
            raise DataError([f"{archive}: {name!r} is larger than the archive's list says"])
        out.write(block)


# ---------------------------------------------------------------- tar


class _Suspicious(Exception):
    """An entry says absurd things of itself."""


class _Entry(tarfile.TarInfo):
    """Refuses remarks of a size that none has, such as a name of gigabytes: tarfile reads them into memory whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (found.type in _REMARKS and found.size > MOST_HEADER):
            raise _Suspicious(f"{found.name[:60]!r}: {found.size} bytes of remarks on an entry")
        return found


def _extract_tar(archive: Path, opened: tarfile.TarFile, folder: Path) -> None:
    # The list is read first: a member that is announced too large is refused before anything is written.
    _check(archive, (Member(one.name, one.size, one.isdir(), _tar_problem(one, folder)) for one in opened))
    opened.extractall(folder, filter="data")


def _tar_problem(member: tarfile.TarInfo, folder: Path) -> str:
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return "no file, folder or link"
    try:
        tarfile.data_filter(member, str(folder))
    except tarfile.FilterError:
        return "leads outside"
    return ""


# ---------------------------------------------------------------- into place


def _move(source: Path, target: Path) -> int:
    """Move what was unpacked into place; all of it, or nothing where a file is in the way."""
    files = [
        Path(above) / name
        for above, folders, names in os.walk(source)
        for name in (*names, *(one for one in folders if os.path.islink(os.path.join(above, one))))
    ]
    wanted = {file: target / file.relative_to(source) for file in files}
    lines = [line for file, place in wanted.items() if (line := _in_the_way(file, place, target))]
    if lines:
        more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        raise DataError(
            [*lines[:SHOWN], *more], advice="Nothing was unpacked. Choose an empty folder, or remove these files."
        )
    if not os.path.lexists(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
        return len(files)
    for above, folders, _ in os.walk(source):
        for name in (one for one in folders if not os.path.islink(os.path.join(above, one))):
            (target / (Path(above) / name).relative_to(source)).mkdir(parents=True, exist_ok=True)
    _move_all({file: place for file, place in wanted.items() if not os.path.lexists(place)})
    return len(files)


def _move_all(wanted: dict[Path, Path]) -> None:
    done: list[Path] = []
    try:
        for file, place in wanted.items():
            os.replace(file, place)
            done.append(place)
    except OSError as error:
        for place in done:
            with suppress(OSError):
                place.unlink()
        raise DataError([f"{error.filename2 or error.filename}: cannot be written ({error.strerror})"]) from None


def _in_the_way(file: Path, place: Path, target: Path) -> str:
    if not place.parent.resolve().is_relative_to(target.resolve()):
        return f"{place}: a link in the folder leads outside of it"
    above = place.parent
    while above != target.parent:
        if os.path.lexists(above) and not above.is_dir():
            return f"{above}: is there already, and is no folder"
        above = above.parent
    if not os.path.lexists(place):
        return ""
    same = place.is_file() and not place.is_symlink() and not file.is_symlink() and cmp(file, place, shallow=False)
    return "" if same else f"{place}: is there already and differs"
