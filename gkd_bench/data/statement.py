"""What a report says of the domains themselves: who is in which split, and how pixels became grey levels."""

from __future__ import annotations

from typing import Any

from gkd_bench.config.data import Prepare, Volumes
from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.domain import DomainCard
from gkd_bench.data.manifest import PreparedStack
from gkd_bench.data.splits import SPLITS
from gkd_bench.data.stacks import window_words


def domain_records(domain: PreparedDomain, card: DomainCard, whole: bool = False) -> list[dict[str, Any]]:
    """One ``domain`` record, and a ``left_out`` record for every image or stack that was left out because it is broken.

    ``whole``: every subject of it is scored, not the test split alone. Counts are of subjects and slices (photographs count as images only) per split; nothing in them names a patient but the
    names of files that the data set itself gives.
    """
    manifest = domain.manifest
    items = manifest.everything()
    record: dict[str, Any] = {
        "record": "domain",
        "domain": manifest.domain,
        "title": card.title,
        "modality": card.modality,
        "window": intensity_words(domain, card),
        "pixels": scale_words(domain),
        "scored": "everyone" if whole else "test",
        "subjects": len({item.subject for item in items}),
        "images": len(items),
        "slices": sum(stack.slices for stack in manifest.stacks) if manifest.stacks else None,
    }
    for split in SPLITS:
        here = [item for item in items if item.split == split]
        record[f"{split}_subjects"] = len({item.subject for item in here})
        record[f"{split}_images"] = len(here)
        slices = sum(item.slices for item in here if isinstance(item, PreparedStack))
        record[f"{split}_slices"] = slices if manifest.stacks else None
    left_out = [
        {"record": "left_out", "domain": manifest.domain, "image": image, "reason": "; ".join(lines)}
        for image, lines in manifest.left_out.items()
    ]
    return [record, *left_out]


def intensity_words(domain: PreparedDomain, card: DomainCard) -> str:
    """How pixels became grey levels: a sentence that belongs to every number."""
    settings = domain.manifest.settings
    if domain.manifest.stacks:
        words = window_words(card.modality, settings)
        return f"{words} ({card.intensity})" if card.intensity else words
    prepare = Prepare.model_validate(settings)
    clahe = f", CLAHE {prepare.clahe.clip:g} on {prepare.clahe.grid} x {prepare.clahe.grid}" if prepare.clahe else ""
    channel = "colour" if prepare.channel == "rgb" else f"{prepare.channel} channel"
    return f"{channel}{clahe}{', z-score' if prepare.intensity == 'zscore' else ''}"


def scale_words(domain: PreparedDomain) -> str:
    """The size at which a network sees the images."""
    manifest = domain.manifest
    if not manifest.stacks:
        return f"{manifest.factor:.3g} working pixels per pixel"
    wanted = Volumes.model_validate(manifest.settings).spacing
    sizes = sorted({stack.size for stack in manifest.stacks})
    first = f"{sizes[0][1]} x {sizes[0][0]}" + (f" to {sizes[-1][1]} x {sizes[-1][0]}" if len(sizes) > 1 else "")
    return f"{first} pixels a slice" + (f", {wanted:g} mm a pixel" if wanted else "")
