"""Pictures and volumes whose headers lie: each is one error, and nothing of the announced size is ever allocated."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import EpsImagePlugin, Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from gkd_bench.data.dicom import dicom
from gkd_bench.data.nifti import nifti
from gkd_bench.data.readers.folder_pixels import read_picture
from gkd_bench.data.volumefiles import pictures
from gkd_bench.data.volumewriters import write_dicom_series
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.segment import read_photograph
from gkd_bench.report.figures.gallery import _small
from gkd_bench.report.page.album import decoded

MOST = 48 * 2**20
SPACING = (3.0, 1.0, 1.0)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(path: Path) -> Path:
    """60,000 x 60,000 pixels in some hundred kilobytes."""
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(bytes(10**8))) + chunk(b"IEND", b""))
    return path


def text_png(path: Path) -> Path:
    """A remark of 100 MB in a picture of four pixels."""
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
    body += chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 10**8))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(bytes(6))) + chunk(b"IEND", b""))
    return path


def tiff(path: Path) -> Path:
    Image.new("L", (4, 4)).save(path)
    data = bytearray(path.read_bytes())
    for tag in (256, 257):  # width and height
        place = data.index(struct.pack("<H", tag), struct.unpack("<I", data[4:8])[0])
        data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, 2**31 - 1)
    path.write_bytes(data)
    return path


def ppm(path: Path) -> Path:
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(b"P6 50000 50000 255\n" + bytes(10**8))
    return path


def volume(path: Path, shape: tuple[int, ...]) -> Path:
    header = nib.Nifti1Header()
    header.set_data_shape((1, 1, 1))
    header.set_data_dtype(np.float64)
    header["dim"][: len(shape) + 1] = (len(shape), *shape)
    header["magic"], header["vox_offset"] = b"n+1", 352
    content = header.binaryblock + bytes(10_000)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def series(path: Path, **tags: object) -> Path:
    (made,) = write_dicom_series(path.parent / "made", np.zeros((1, 8, 8), np.int16), SPACING)
    data = pydicom.dcmread(made)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path)
    return path


def deflated(path: Path) -> Path:
    """Some hundred kilobytes that unpack to 200 MB while it is parsed, before any element is looked at."""
    data = pydicom.dcmread(series(path))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(path)
    whole = path.read_bytes()
    start = 132 + 12 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = b"".join(packer.compress(bytes(10**7)) for _ in range(20)) + packer.flush()
    path.write_bytes(whole[:start] + packed)
    return path


def read_volume(path: Path) -> object:
    return [*nifti(path).read([0])]


def read_series(path: Path) -> object:
    return [*dicom([path]).read([0])]


LIES: dict[str, tuple[str, Callable[[Path], Path], Callable[[Path], object]]] = {
    "huge png, predicted": ("a.png", png, read_photograph),
    "huge png, own data": ("a.png", png, lambda path: read_picture(path, "RGB")),
    "huge png, slices": ("a.png", png, lambda path: [*pictures([path]).read([0])]),
    "remark in a png": ("a.png", text_png, read_photograph),
    "huge tiff": ("a.tif", tiff, read_photograph),
    "huge ppm": ("a.ppm.gz", ppm, read_photograph),
    "huge volume": ("a.nii", lambda path: volume(path, (30_000, 30_000, 30_000)), read_volume),
    "long volume": ("a.nii.gz", lambda path: volume(path, (1000, 1000, 2000)), read_volume),
    "negative volume": ("a.nii", lambda path: volume(path, (-4, 4, 4)), read_volume),
    "too many axes": ("a.nii", lambda path: volume(path, (4, 4, 4, 4000, 4000)), read_volume),
    "huge slice": ("a.dcm", lambda path: series(path, Rows=65535, Columns=65535), read_series),
    "many frames": ("a.dcm", lambda path: series(path, NumberOfFrames=2**31 - 1), read_series),
    "larger than its pixels": ("a.dcm", lambda path: series(path, Rows=4000, Columns=4000), read_series),
    "deflated": ("a.dcm", deflated, read_series),
}


@pytest.mark.timeout(60)  # what is unpacked could be parsed for hours
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", LIES)
def test_lies_about_sizes_are_one_error_and_take_no_memory(what: str, tmp_path: Path) -> None:
    name, write, read = LIES[what]
    path = write(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises((GkdBenchError, OSError, ValueError)):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def test_formats_that_run_other_programs_are_not_even_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    Image.init()
    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "_open", lambda self: pytest.fail("parsed PostScript"))
    for read in (read_photograph, lambda one: read_picture(one, "RGB"), lambda one: pictures([one])):
        with pytest.raises((GkdBenchError, OSError)):
            read(path)


def test_pictures_of_artefacts_are_decoded_as_png_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    others = [bytes(cv2.imencode(ending, pixels)[1]) for ending in (".tiff", ".bmp", ".webp", ".jp2")]
    assert decoded(bytes(cv2.imencode(".png", pixels)[1])).shape == (4, 4, 3)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    for content in [*others, b""]:
        for read in (decoded, lambda one: _small(one, 1.0)):
            with pytest.raises(GkdBenchError):
                read(content)
