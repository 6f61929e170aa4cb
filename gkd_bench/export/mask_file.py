"""Masks as NIfTI files that lie exactly where the volume lies, and say nothing else that its header said."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from gkd_bench.data.nifti import NiftiHeader, raw_header
from gkd_bench.data.volumefiles import guarded
from gkd_bench.store.files import replace_file

nib: Any = nibabel  # half of its functions have no types
_PLACE = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_UP = 2  # of the scanner's axes: right, front, up
_LENGTH_UNIT = 7  # bits of xyzt_units; the others are of time


def mask_bytes(header: NiftiHeader, classes: NDArray[np.uint8]) -> bytes:
    """A gzipped NIfTI file of class numbers in the voxels of a volume; equal masks give equal bytes.

    Shape, voxel sizes, both transforms with their codes and the unit of length are the volume's, to the last bit. Texts,
    extensions and all else of its header are left out: they may name a patient.

    Args:
        header: of the volume.
        classes: ``header.shape`` uint8 class numbers, along the axes as stored.

    Raises:
        DataError: the volume's header can no longer be read.
    """
    with guarded(header.path, "NIfTI file"):
        given, _ = raw_header(header.path)
        image = nib.Nifti2Image if isinstance(given, nib.Nifti2Header) else nib.Nifti1Image
        voxels = classes.reshape(given.get_data_shape(), order="F")
        return gzip.compress(image(voxels, None, _bare(given)).to_bytes(), mtime=0)


def slices_of(header: NiftiHeader, voxels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A view (slices, first, second) of voxels in the file's axes, as :func:`gkd_bench.data.nifti.nifti` counts them."""
    axes = nib.orientations.io_orientation(header.affine)[:, 0].tolist()
    return np.moveaxis(voxels, axes.index(_UP), 0)


def write_mask(path: Path, header: NiftiHeader, classes: NDArray[np.uint8]) -> Path:
    """Write :func:`mask_bytes` as a whole or not at all; the path."""
    return replace_file(path, mask_bytes(header, classes))


def _bare(given: Any) -> Any:
    """A new header of the same kind, with the place of the given one only."""
    bare = type(given)()
    bare.set_data_dtype(np.uint8)
    bare.set_data_shape(given.get_data_shape())
    bare["pixdim"][:4] = given["pixdim"][:4]
    for name in _PLACE:
        bare[name] = given[name]
    bare["xyzt_units"] = int(given["xyzt_units"]) & _LENGTH_UNIT
    return bare
