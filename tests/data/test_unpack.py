"""``gkd-bench data unpack``: all of an archive or nothing, and nothing outside of the folder."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gkd_bench.cli import main
from gkd_bench.data import unpack as unpacking
from gkd_bench.data.unpack import unpack
from gkd_bench.errors import DataError

FILES = {"set/images/a.png": b"image", "set/masks/a.png": b"mask", "set/readme.txt": b""}
Entry = tarfile.TarInfo | zipfile.ZipInfo


def write_zip(path: Path, files: Mapping[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes] = FILES, mode: str = "w:gz", *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in more:
            archive.addfile(entry)
    return path


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, link
    return entry


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(archive: Path, message: str, target: Path | None = None) -> None:
    """Unpacking is one error, and leaves the folder around the archive as it was."""
    target = target or archive.parent / "out"
    before = content(archive.parent)
    with pytest.raises(DataError, match=message) as caught:
        unpack(archive, target)
    assert str(archive) in str(caught.value) or str(target) in str(caught.value)
    assert content(archive.parent) == before
    assert not list(archive.parent.rglob(".unpacking-*"))


WRITERS: dict[str, Callable[[Path], Path]] = {
    "a.zip": write_zip,
    "a.tar": lambda path: write_tar(path, mode="w"),
    "a.tar.gz": write_tar,
    "a.tar.xz": lambda path: write_tar(path, mode="w:xz"),
    "wrong_name.dat": write_zip,
}


@pytest.mark.parametrize("name", WRITERS)
def test_archives_are_unpacked_whole(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    archive = WRITERS[name](tmp_path / name)
    assert main(["data", "unpack", str(archive), "--to", str(tmp_path / "deep" / "out")]) == 0
    assert content(tmp_path / "deep" / "out") == FILES
    assert "unpacked 3 files" in capsys.readouterr().out
    assert not list(tmp_path.rglob(".unpacking-*"))


def test_existing_folder_is_added_to_and_equal_files_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "set").mkdir(parents=True)
    (out / "set" / "readme.txt").touch()
    (out / "mine.txt").write_text("mine")
    stamp = (out / "set" / "readme.txt").stat().st_mtime_ns
    archive = write_zip(tmp_path / "a.zip")
    for _ in range(2):
        assert unpack(archive, out) == 3
    assert content(out) == {**FILES, "mine.txt": b"mine"}
    assert (out / "set" / "readme.txt").stat().st_mtime_ns == stamp


def test_different_file_in_the_way_stops_everything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "set" / "masks").mkdir(parents=True)
    (out / "set" / "masks" / "a.png").write_text("mine")
    refused(write_zip(tmp_path / "a.zip"), "masks/a.png: is there already and differs", out)
    (out / "set" / "masks" / "a.png").unlink()
    (out / "set" / "masks").rmdir()
    (out / "set" / "masks").write_text("a file")
    refused(write_tar(tmp_path / "a.tar.gz"), "masks: is there already, and is no folder", out)
    refused(write_zip(tmp_path / "a.zip"), "is a file, so .* cannot be made", out / "set" / "masks" / "below")


def test_link_in_the_target_folder_leads_nowhere_else(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    (out / "set").symlink_to(other)
    refused(write_zip(tmp_path / "a.zip"), "a link in the folder leads outside", out)
    assert not list(other.iterdir())


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:/evil", "a\nb"])
@pytest.mark.parametrize("write", [write_zip, write_tar], ids=["zip", "tar"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str, write: Callable[..., Path]) -> None:
    refused(
        write(tmp_path / "archive", {**FILES, name: b"x"}),
        r"leads outside by '\.\.'|an absolute name|cannot be printed",
    )


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (special("set/link", tarfile.SYMTYPE, "../../outside"), "leads outside"),
        (special("set/link", tarfile.SYMTYPE, "/etc/passwd"), "leads outside"),
        (special("set/hard", tarfile.LNKTYPE, "../outside"), "leads outside"),
        (special("set/device", tarfile.CHRTYPE), "no file, folder or link"),
        (special("set/pipe", tarfile.FIFOTYPE), "no file, folder or link"),
        (special("set/readme.txt", tarfile.REGTYPE), "named twice"),
    ],
)
def test_links_outside_devices_and_doubles_are_refused_in_tar(
    tmp_path: Path, entry: tarfile.TarInfo, message: str
) -> None:
    refused(write_tar(tmp_path / "a.tar", FILES, "w", entry), message)


def test_file_behind_a_link_of_the_archive_itself_stays_inside(tmp_path: Path) -> None:
    links = [special("a", tarfile.SYMTYPE, "set"), special("a/b", tarfile.SYMTYPE, "..")]
    archive = write_tar(tmp_path / "a.tar", FILES, "w", *links, special("a/b/../../evil", tarfile.SYMTYPE, "/etc"))
    refused(archive, "leads outside")


def test_links_inside_are_kept_in_tar(tmp_path: Path) -> None:
    archive = write_tar(
        tmp_path / "a.tar",
        FILES,
        "w",
        special("set/link.png", tarfile.SYMTYPE, "images/a.png"),
        special("all", tarfile.SYMTYPE, "set"),
    )
    (tmp_path / "out").mkdir()
    assert unpack(archive, tmp_path / "out") == 5
    assert (tmp_path / "out" / "set" / "link.png").read_bytes() == b"image"
    assert (tmp_path / "out" / "all").is_symlink()


def test_links_and_encrypted_entries_are_refused_in_zip(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "link.zip", "'link': a link")
    data = bytearray(write_zip(tmp_path / "locked.zip").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    refused(tmp_path / "locked.zip", "encrypted; unpack it with its password")


@pytest.mark.parametrize("write", [write_zip, write_tar], ids=["zip", "tar"])
def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]) -> None:
    monkeypatch.setattr(unpacking, "SMALL", 10_000)
    refused(write(tmp_path / "bomb", {"zeros": bytes(5_000_000)}), "MB unpacked, from")
    monkeypatch.setattr(unpacking, "MOST_FILES", 2)
    refused(write(tmp_path / "many"), "more than 2 entries")


def test_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    data = bytearray(write_zip(tmp_path / "liar.zip", {"zeros": bytes(300_000)}).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = data.index(mark) + offset
        data[place : place + 4] = (10).to_bytes(4, "little")
    (tmp_path / "liar.zip").write_bytes(data)
    refused(tmp_path / "liar.zip", "larger than the archive's list says|torn")


def test_what_is_no_archive_or_empty_is_a_clear_error(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.zip", "no such file")
    (tmp_path / "text.zip").write_text("text")
    refused(tmp_path / "text.zip", "torn, or no zip or tar archive")
    refused(write_zip(tmp_path / "empty.zip", {}), "no file in it")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archive_unpacks_or_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    archive = WRITERS[name](folder / name)
    bytes_ = bytearray(archive.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(bytes_) - 1), max_size=4)):
        bytes_[place] = data.draw(st.integers(0, 255))
    archive.write_bytes(bytes_[: data.draw(st.integers(0, len(bytes_)))] if data.draw(st.booleans()) else bytes_)
    try:
        unpack(archive, folder / "out")
    except DataError:
        assert not (folder / "out").exists()
    assert {path.name for path in folder.iterdir()} <= {name, "out"}
