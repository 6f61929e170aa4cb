"""Figures of a report: pure functions from records and extras to SVG, PDF and PNG bytes, equal for equal input."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gkd_bench.report.extras import Extras
from gkd_bench.report.figures.base import Figure
from gkd_bench.report.frame import SweepRecords

__all__ = ["Figure", "draw_figures"]

Drawn = Figure | tuple[Figure, ...] | None


def draw_figures(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    """Every figure that the records and extras allow, in the order of a report; names are unique.

    Args:
        records: records of the sweep.
        extras: pictures and vectors, where they are at hand.
    """
    return tuple(figure for draw in _all() for figure in _each(draw(records, extras)))


def _all() -> tuple[Callable[[SweepRecords, Extras], Drawn], ...]:
    """The figures in the order of a report; loaded here, so that a report without figures does not wait for them."""
    from gkd_bench.report.figures import choices, costs, embedding, foretold, gains, gallery, matrices, search, stress
    from gkd_bench.report.figures import training as trained

    return (
        matrices.generalisation_matrix,
        matrices.drop_matrix,
        gains.gain_forest,
        gains.paired_dots,
        gallery.same_images,
        gallery.worst_and_best,
        choices.selection_rules,
        foretold.forecast_scatter,
        costs.accuracy_and_cost,
        stress.stress_curves,
        search.search_history,
        search.search_fronts,
        search.parameter_slices,
        embedding.semantic_vectors,
        trained.training_curves,
        trained.loss_curves,
        trained.gradient_curves,
    )


def _each(drawn: Drawn) -> Iterator[Figure]:
    if isinstance(drawn, Figure):
        yield drawn
    elif drawn is not None:
        yield from drawn
