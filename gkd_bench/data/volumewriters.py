"""Writes volumes as the files that real data come in: DICOM series, PNG masks and NIfTI, for phantoms and tests.

Everything is handed over in the package's order, (slices from the feet to the head, rows from anterior to posterior, columns
from the patient's right to the left), and written along the axes that ``axcodes`` asks for: where columns, rows and
slices of the file run to, as in nibabel, so that "LPS" is the package's own order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gkd_bench.data.domain import Spacing

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

nib: Any = nibabel  # half of its functions have no types
OWN_AXES = "LPS"
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
"""NIfTI's millimetres grow to the patient's right, anterior and head, those of DICOM to the left, posterior and head."""


class Turned(NamedTuple):
    """A volume along the axes of a file.

    Attributes:
        voxels: (columns, rows, slices) of the file, any type.
        affine: (4, 4) from voxel indices to NIfTI's millimetres; the middle of the volume is its origin.
    """

    voxels: NDArray[Any]
    affine: NDArray[np.float64]


def turned(values: NDArray[Any], spacing: Spacing, axcodes: str = OWN_AXES) -> Turned:
    """The volume along other axes.

    Args:
        values: (slices, rows, columns) in the package's order.
        spacing: millimetres between slices, rows and columns.
        axcodes: three letters, one of each pair L/R, P/A and S/I.

    Raises:
        ValueError: ``axcodes`` is not such a triple.
    """
    if len(axcodes) != 3 or not all(len(set(axcodes) & set(pair)) == 1 for pair in ("LR", "PA", "SI")):
        raise ValueError(f"axcodes {axcodes!r} must name one of L/R, one of P/A and one of S/I")
    voxels = np.moveaxis(values, (0, 1, 2), (2, 1, 0))
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(voxels.shape) - 1) / 2)
    start, end = (nib.orientations.axcodes2ornt(tuple(codes)) for codes in (OWN_AXES, axcodes))
    change = nib.orientations.ornt_transform(start, end)
    moved = nib.orientations.apply_orientation(voxels, change)
    return Turned(moved, affine @ nib.orientations.inv_ornt_aff(change, voxels.shape))


def write_nifti(path: Path, values: NDArray[Any], spacing: Spacing, axcodes: str = OWN_AXES) -> Path:
    """Write a volume as NIfTI, gzipped if the name says so, in the type of its values; folders are made.

    Args:
        path: file that ends in ``.nii`` or ``.nii.gz``.
        values: (slices, rows, columns) in the package's order, of a type that NIfTI knows, such as int16 or uint8.
        spacing: millimetres between slices, rows and columns.
        axcodes: axes of the file; see the module.

    Raises:
        ValueError: wrong ``axcodes``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels, affine = turned(values, spacing, axcodes)
    image = nib.Nifti1Image(voxels, affine, dtype=values.dtype)
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def write_mask_pngs(
    folder: Path,
    label: NDArray[np.uint8],
    levels: Sequence[int],
    names: str = "liver_GT_{:03d}.png",
    axcodes: str = OWN_AXES,
) -> list[Path]:
    """Write one grey 8-bit PNG per slice, in the order of their names; folders are made.

    Args:
        folder: where they go.
        label: (slices, rows, columns) uint8 in the package's order, 0 = background.
        levels: grey level of label 1, 2, and so on.
        names: name of a file by its number, which starts at 0.
        axcodes: axes of the series that the masks belong to; see the module.

    Raises:
        ValueError: a label without a level, or wrong ``axcodes``.
    """
    if label.size and int(label.max()) > len(levels):
        raise ValueError(f"label {int(label.max())} has no grey level; there are {len(levels)}")
    folder.mkdir(parents=True, exist_ok=True)
    grey = np.asarray((0, *levels), dtype=np.uint8)[turned(label, (1.0, 1.0, 1.0), axcodes).voxels]
    paths = [folder / names.format(number) for number in range(grey.shape[2])]
    for number, path in enumerate(paths):
        Image.fromarray(np.ascontiguousarray(grey[:, :, number].T)).save(path)
    return paths


def write_dicom_series(
    folder: Path,
    values: NDArray[Any],
    spacing: Spacing,
    *,
    modality: str = "CT",
    intercept: float = -1024,
    slope: float = 1,
    names: str = "i{:04d},0000b.dcm",
    patient: str = "anonymous",
    axcodes: str = OWN_AXES,
    positions: Sequence[float] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write one uncompressed DICOM file per slice, in the order of their names; folders are made.

    The same arguments give the same bytes: every UID comes from a hash.

    Args:
        folder: where they go.
        values: (slices, rows, columns) in the package's order; stored as 16-bit integers (values - intercept) / slope.
        spacing: millimetres between slices, rows and columns.
        modality: "CT" or "MR".
        intercept: value of what is stored as 0.
        slope: value of one stored step.
        names: name of a file by its number, which starts at 0.
        patient: name and number of the patient.
        axcodes: axes of the file; a third letter "I" makes the first file the one nearest to the head.
        positions: millimetres of every file along the axis of the slices, in the order of the files, for series with gaps
            or in disorder; none = evenly spaced.
        tags: elements by keyword that every file gets instead of its own; None leaves an element out.

    Raises:
        ValueError: wrong ``axcodes``, another modality, or values that do not fit into 16 bits.
        OverflowError: values that are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    voxels, affine = turned(values, spacing, axcodes)
    stored = _stored(voxels, intercept, slope)
    series = _series_elements(modality, patient, f"{folder.name}/{names}") | _geometry(affine)
    if modality == "CT" or (intercept, slope) != (0, 1):
        series |= {"RescaleIntercept": _decimal(intercept), "RescaleSlope": _decimal(slope)}
    towards = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    paths = [folder / names.format(number) for number in range(stored.shape[2])]
    for number, path in enumerate(paths):
        corner = affine[:3, 3] + number * affine[:3, 2]
        if positions is not None:
            corner = affine[:3, 3] + positions[number] * towards
        place = {"InstanceNumber": number + 1, "ImagePositionPatient": _decimals(RAS_TO_LPS @ corner)}
        _write_slice(path, stored[:, :, number].T, series | place, tags or {})
    return paths


def _stored(voxels: NDArray[Any], intercept: float, slope: float) -> NDArray[Any]:
    """What the files hold: uint16, or int16 if there are negative numbers."""
    exact = np.rint((voxels.astype(np.float64) - intercept) / slope)
    if not np.isfinite(exact).all():
        raise OverflowError("values that are NaN or infinite cannot be stored as integers")
    kind = np.int16 if exact.min() < 0 else np.uint16
    if exact.min() < np.iinfo(kind).min or exact.max() > np.iinfo(kind).max:
        raise ValueError(
            f"{exact.min():g} ... {exact.max():g} does not fit into 16 bits; choose another intercept or slope"
        )
    return exact.astype(kind)


def _series_elements(modality: str, patient: str, seed: str) -> dict[str, Any]:
    """What all files of a series share, apart from geometry: the elements that a CT or MR image must have."""
    from pydicom.uid import CTImageStorage, MRImageStorage, generate_uid

    if modality not in ("CT", "MR"):
        raise ValueError(f"modality {modality!r} must be CT or MR")
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    own: dict[str, Any] = {uid: generate_uid(entropy_srcs=[modality, patient, seed, uid]) for uid in uids}
    own |= {"SOPClassUID": CTImageStorage if modality == "CT" else MRImageStorage, "Modality": modality}
    own |= {"PatientName": patient, "PatientID": patient, "StudyDate": "20000101", "StudyTime": "120000"}
    own |= {"StudyID": "1", "SeriesNumber": 1, "AcquisitionNumber": 1, "Manufacturer": "gkd_bench phantom"}
    own |= {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "OTHER"], "PatientPosition": "HFS"}
    if modality == "CT":
        own |= {"KVP": "120"}
    else:
        own |= {"ScanningSequence": "GR", "SequenceVariant": "SP", "MRAcquisitionType": "2D", "EchoTime": "4.6"}
        own |= {"RepetitionTime": "110", "EchoTrainLength": 1, "ScanOptions": ""}
    empty = (
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "ReferringPhysicianName",
        "PositionReferenceIndicator",
    )
    return own | dict.fromkeys(empty, "")


def _geometry(affine: NDArray[np.float64]) -> dict[str, Any]:
    """Elements for directions and distances; DICOM gives the distance of rows before that of columns."""
    axes = RAS_TO_LPS @ affine[:3, :3]
    columns, rows, slices = (float(step) for step in np.linalg.norm(axes, axis=0))
    return {
        "ImageOrientationPatient": _decimals(np.concatenate([axes[:, 0] / columns, axes[:, 1] / rows])),
        "PixelSpacing": _decimals(np.asarray([rows, columns])),
        "SliceThickness": _decimal(slices),
        "SpacingBetweenSlices": _decimal(slices),
    }


def _write_slice(path: Path, pixels: NDArray[Any], elements: Mapping[str, Any], tags: Mapping[str, Any]) -> None:
    """One file; pixels: (rows, columns) of 16 bits."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    number = str(elements["InstanceNumber"])
    own = {"SOPInstanceUID": generate_uid(entropy_srcs=[elements["SeriesInstanceUID"], number])}
    image = _image_elements(pixels)
    _set_elements(file, {**elements, **own, **image, **tags})
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = elements["SOPClassUID"], own["SOPInstanceUID"]
    file.save_as(path, enforce_file_format=True)


def _image_elements(pixels: NDArray[Any]) -> dict[str, Any]:
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.astype(pixels.dtype.newbyteorder("<")).tobytes(),
    }


def _set_elements(file: Dataset, elements: Mapping[str, Any]) -> None:
    for keyword, value in elements.items():
        if value is not None:
            setattr(file, keyword, value)


def _decimal(number: float) -> str:
    """A decimal string of DICOM, which has at most 16 characters."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(number) + 0.0)  # + 0.0 turns -0.0 into 0.0


def _decimals(numbers: NDArray[np.float64]) -> list[str]:
    return [_decimal(float(number)) for number in numbers]
