"""Tiles of a domain to measure on, as many as a stage can hold."""

from __future__ import annotations

from gkd_bench.data.cache import AnyImages
from gkd_bench.data.tiles import GridTiles, grid_tiles
from gkd_bench.stages.context import StageContext


def domain_tiles(images: AnyImages, context: StageContext, most: int) -> GridTiles:
    """At most ``most`` grid tiles of images, evenly spaced over all, on the CPU."""
    return grid_tiles(images, int(context.setting("tile")), most=most)
