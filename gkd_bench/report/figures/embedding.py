"""Where the semantic vectors of domains lie: by principal components and by t-SNE, for teacher, student alone and distilled."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gkd_bench.report.extras import Extras, VectorSet
from gkd_bench.report.figures.axes import all_domains, empty, key, legend, plain
from gkd_bench.report.figures.base import PAGE, Figure, file_name, finish, panels, style
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.names import ALONE, REFERENCES, TEACHER, counted, listed, method_title
from gkd_bench.report.palette import RULE, domain_colours

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_MOST_POINTS = 600
_PERPLEXITY = 30.0
_ROUNDS = 500
_LEAST = 4
_NO_BREAK = "\N{NO-BREAK SPACE}"
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<")
Points = NDArray[np.float64]
Key = tuple[str, str]
"""(method, domain)"""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Vectors of one source's networks, and where they lie on the two maps.

    Attributes:
        source: the source.
        colours: domain -> ``#RRGGBB``, the same for all sources.
        seed: of the trainings.
        methods: one column of panels each.
        domains: one colour each, the source first.
        rows: (method, domain) -> places in the arrays.
        pca, tsne: (points, 2); t-SNE is none with too few points.
        explained: share of the variance along the two components.
    """

    source: str
    colours: Mapping[str, str]
    seed: int
    methods: Sequence[str]
    domains: Sequence[str]
    rows: Mapping[Key, NDArray[np.intp]]
    pca: Points
    tsne: Points | None
    explained: float


def semantic_vectors(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """One figure per source: its networks' vectors on tiles of every domain."""
    found = (_cloud(records, source, extras.vectors) for source in records.sources)
    return tuple(_figure(records, cloud) for cloud in found if cloud is not None)


def _cloud(records: SweepRecords, source: str, vectors: Sequence[VectorSet]) -> Cloud | None:
    mine = [one for one in vectors if one.source == source]
    if not mine:
        return None
    seed = min(one.seed for one in mine)
    methods = _shown_methods(records, {one.method for one in mine if one.seed == seed})
    kept = [one for one in mine if one.seed == seed and one.method in methods and len(one.values)]
    kept = [one for one in kept if one.values.shape[1] == kept[0].values.shape[1]]
    if not kept:
        return None
    found = {one.domain for one in kept}
    domains = [name for name in dict.fromkeys([source, *all_domains(records, found)]) if name in found]
    kept.sort(key=lambda one: (list(methods).index(one.method), domains.index(one.domain)))
    methods = [name for name in methods if name in {one.method for one in kept}]
    return _mapped(source, domain_colours([*all_domains(records), *domains]), seed, methods, domains, kept)


def _shown_methods(records: SweepRecords, found: set[str]) -> list[str]:
    """Teacher, student alone, and the distilled one: GKD, else the last method of the table that is no variant."""
    distilled = [name for name in records.in_order(found) if name not in REFERENCES]
    whole = [name for name in distilled if name not in records.origin.variants] or distilled
    return [name for name in (TEACHER, ALONE, *(["gkd"] if "gkd" in whole else whole[-1:])) if name in found]


def _mapped(
    source: str,
    colours: Mapping[str, str],
    seed: int,
    methods: list[str],
    domains: list[str],
    kept: Sequence[VectorSet],
) -> Cloud | None:
    rng = np.random.default_rng(seed)
    most = max(1, _MOST_POINTS // len(kept))
    parts = [_drawn(one.values, most, rng) for one in kept]
    ends = np.cumsum([0, *(len(part) for part in parts)])
    rows = {(one.method, one.domain): np.arange(ends[at], ends[at + 1]) for at, one in enumerate(kept)}
    together = np.concatenate(parts)
    if len(together) < _LEAST:
        return None
    reduced, explained = _components(together)
    return Cloud(source, colours, seed, methods, domains, rows, reduced[:, :2], _tsne(reduced), explained)


def _drawn(values: NDArray[np.float32], most: int, rng: np.random.Generator) -> Points:
    chosen = np.sort(rng.permutation(len(values))[:most])
    return values[chosen].astype(np.float64)


def _components(vectors: Points, most: int = 30) -> tuple[Points, float]:
    """(points, up to 30) principal components with fixed signs, and the share of variance along the first two."""
    centred = vectors - vectors.mean(axis=0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    scores = left * sizes * signs
    if scores.shape[1] < 2:
        scores = np.pad(scores, ((0, 0), (0, 1)))
    total = float((sizes**2).sum())
    return scores[:, :most], float((sizes[:2] ** 2).sum() / total) if total > 0 else 1.0


def _tsne(reduced: Points) -> Points | None:
    """Map of (points, k) components; none with so few points that neighbours mean nothing, or all of them equal."""
    perplexity = min(_PERPLEXITY, (len(reduced) - 1) / 3)
    if perplexity < 5 or not np.ptp(reduced):
        return None
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    start = 1e-4 * reduced[:, :2] / reduced[:, 0].std()
    with warnings.catch_warnings(), threadpool_limits(1):  # one thread: the same sums in the same order everywhere
        warnings.simplefilter("ignore")
        mapped = TSNE(2, perplexity=perplexity, init=start, max_iter=_ROUNDS, random_state=0).fit_transform(reduced)
    return np.asarray(mapped, np.float64)


def _figure(records: SweepRecords, cloud: Cloud) -> Figure:
    maps = [("principal components", cloud.pca)]
    maps += [("t-SNE", cloud.tsne)] if cloud.tsne is not None else []
    columns = len(cloud.methods)
    distances = {method: _distances(records, cloud, method) for method in cloud.methods}
    with style():
        drawing, axes = panels(len(maps), columns, PAGE * max(columns, 2) / 3, 2.2 * len(maps) + 0.55)
        for row, (words, places) in enumerate(maps):
            line = axes[row * columns : (row + 1) * columns]
            for one, method in zip(line, cloud.methods, strict=True):
                _panel(one, cloud, method, places)
            line[0].set_ylabel(words)
        for one, method in zip(axes, cloud.methods, strict=False):
            one.set_title(method_title(method))
        for one, method in zip(axes[-columns:], cloud.methods, strict=True):
            one.set_xlabel(_distance_words(distances[method]))
        empty(axes[len(maps) * columns :])
        legend(drawing, _handles(cloud))
        name, title = (
            file_name("semantic_vectors", cloud.source),
            f"Semantic vectors of networks trained on {cloud.source}",
        )
        return finish(drawing, name, "distance", title, _caption(cloud), _alt(cloud, distances))


def _panel(axes: Axes, cloud: Cloud, method: str, places: Points) -> None:
    for at, domain in enumerate(cloud.domains):
        rows = cloud.rows.get((method, domain))
        if rows is not None:
            axes.scatter(
                places[rows, 0], places[rows, 1], s=7, marker=_SHAPES[at % len(_SHAPES)], color=cloud.colours[domain], alpha=0.7,
                linewidth=0, rasterized=True,
            )  # fmt: skip
    reach = [(float(side.min()), float(side.max())) for side in places.T]
    room = [0.05 * (high - low) or 1.0 for low, high in reach]
    axes.set_xlim(reach[0][0] - room[0], reach[0][1] + room[0])
    axes.set_ylim(reach[1][0] - room[1], reach[1][1] + room[1])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=RULE)


def _handles(cloud: Cloud) -> list[Artist]:
    titles = {domain: f"{domain} (source)" if domain == cloud.source else domain for domain in cloud.domains}
    shapes = {domain: _SHAPES[at % len(_SHAPES)] for at, domain in enumerate(cloud.domains)}
    return [key(titles[domain], shapes[domain], cloud.colours[domain], width=0.2) for domain in cloud.domains]


def _distances(records: SweepRecords, cloud: Cloud, method: str) -> dict[str, float]:
    """Domain -> FSD of its tiles from the source's, as recorded for the same network."""
    frame = records.final("fsd", "test")
    mine = frame[
        (frame["use"] == "domain") & (frame["space"] == "aligned") & (frame["source"] == cloud.source)
        & (frame["method"] == method) & (frame["seed"] == cloud.seed)
    ]  # fmt: skip
    found = {str(target): float(value) for target, value in zip(mine["target"], mine["value"], strict=True)}
    return {domain: found[domain] for domain in cloud.domains if domain in found and domain != cloud.source}


def _distance_words(distances: Mapping[str, float]) -> str:
    """``FSD: stare 0.61, hrf 0.60`` in lines that fit below a panel."""
    parts = [f"{domain} {plain(value, 2)}".replace(" ", _NO_BREAK) for domain, value in distances.items()]
    return textwrap.fill(f"FSD: {', '.join(parts)}", 34).replace(_NO_BREAK, " ") if parts else ""


def _caption(cloud: Cloud) -> str:
    points = sum(len(rows) for rows in cloud.rows.values())
    smallest = min(len(rows) for rows in cloud.rows.values())
    shown = f"{counted(points, 'tile')} in all, at least {smallest} per network and domain"
    tsne = (
        " Below: t-SNE of the first 30 components; distances between far groups mean little there."
        if cloud.tsne is not None
        else ""
    )
    return (
        f"Every point is the semantic vector of one tile ({shown}), seed {cloud.seed}; training tiles of the source, test tiles "
        f"of the others. Both maps are fitted once for all panels together. Above: the two largest principal components, "
        f"{cloud.explained:.0%} of the variance.{tsne} FSD: distance of a domain's vectors from the source's, of the same "
        f"network, lower is nearer; a reconstruction."
    )


def _alt(cloud: Cloud, distances: Mapping[str, Mapping[str, float]]) -> str:
    texts = []
    for method, found in distances.items():
        numbers = listed(f"{domain} {plain(value, 2)}" for domain, value in found.items()) if found else "not recorded"
        texts.append(f"{method_title(method)}: {numbers}")
    return (
        f"Scatter of semantic vectors of networks trained on {cloud.source}, coloured by domain: {listed(cloud.domains)}. "
        f"FSD from the source: {'; '.join(texts)}."
    )
