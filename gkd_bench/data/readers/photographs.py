"""What the readers of fundus photographs share: one photograph, one vessel mask, perhaps one field-of-view mask."""

from __future__ import annotations

from gkd_bench.data.domain import FileDomain, RawImage, RawPixels
from gkd_bench.data.imagefiles import compute_fov, mismatches, read_mask, read_rgb


class Photographs(FileDomain):
    """Reads the three files of each image; a field of view without a file is computed from the red channel."""

    def read(self, raw: RawImage) -> RawPixels:
        """Pixels of one image. Raises DataError naming the file that is missing, torn or of another size."""
        assert raw.image is not None
        assert raw.label is not None
        path = raw.image
        try:
            rgb = read_rgb(path)
            label = read_mask(path := raw.label)
            fov = read_mask(path := raw.fov) if raw.fov else compute_fov(rgb)
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise self.error([f"{path}: unreadable ({error})"]) from error
        pixels = RawPixels(rgb, label, fov)
        problems = mismatches((raw.image, raw.label, raw.fov), [array.shape for array in pixels])
        problems += [f"{raw.label}: no vessel pixel"] * (not label.any())
        problems += [f"{raw.fov or raw.image}: empty field of view"] * (not fov.any())
        if problems:
            raise self.error(problems)
        return pixels
