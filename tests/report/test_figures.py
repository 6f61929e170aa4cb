from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from PIL import Image

from gkd_bench.errors import GkdBenchError
from gkd_bench.metrics.pareto import pareto_front
from gkd_bench.report.cells import Cell
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Extras, VectorSet
from gkd_bench.report.figures import choices, costs, draw_figures, embedding, foretold, gains, gallery, matrices, search
from gkd_bench.report.figures import stress as stressed
from gkd_bench.report.figures import training as trained
from gkd_bench.report.figures.base import Figure
from gkd_bench.report.figures.scores import Scores, doubtless, number
from gkd_bench.report.frame import SweepRecords

from .fake_extras import make_extras
from .made_up import DOMAINS, Record, make_origin

NOTHING = Extras()
Draw = Callable[[SweepRecords, Extras], Figure | tuple[Figure, ...] | None]


@pytest.fixture(scope="module")
def records(made_up: list[Record]) -> SweepRecords:
    return SweepRecords.from_dicts(made_up, make_origin())


@pytest.fixture(scope="module")
def extras() -> Extras:
    return make_extras(48, 12, DOMAINS[:1])


@pytest.fixture(scope="module")
def drawn(records: SweepRecords, extras: Extras) -> tuple[Figure, ...]:
    return draw_figures(records, extras)


def only(made_up: list[Record], *kinds: str) -> SweepRecords:
    return SweepRecords.from_dicts([record for record in made_up if record["record"] in kinds], make_origin())


def one(figure: Figure | tuple[Figure, ...] | None) -> Figure:
    """The figure, or the one page of it."""
    if isinstance(figure, tuple):
        (figure,) = figure
    assert isinstance(figure, Figure)
    return figure


# ------------------------------------------------------------------------------------------------ all of them


def test_every_figure_is_complete_and_has_a_name_of_its_own(drawn: tuple[Figure, ...]) -> None:
    names = [figure.name for figure in drawn]
    assert len(set(names)) == len(names)
    for figure in drawn:
        assert re.fullmatch(r"[a-z0-9_-]+", figure.name)
        assert figure.title and figure.caption.endswith(".") and figure.alt.endswith(".")
        assert figure.svg.startswith(b"<svg") and figure.pdf.startswith(b"%PDF")


def test_alt_texts_carry_numbers(drawn: tuple[Figure, ...]) -> None:
    assert all(re.search(r"\d", figure.alt) for figure in drawn)


def test_figures_are_no_wider_than_a_page(drawn: tuple[Figure, ...]) -> None:
    assert all(Image.open(io.BytesIO(figure.png)).width <= 7 * 200 for figure in drawn)


def test_nothing_touches_the_edge_of_a_picture(drawn: tuple[Figure, ...]) -> None:
    for figure in drawn:
        pixels = np.asarray(Image.open(io.BytesIO(figure.png)).convert("L"))
        edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert all((edge == 255).all() for edge in edges), figure.name


def test_order_of_records_does_not_change_a_byte(made_up: list[Record]) -> None:
    chosen = [record for record in made_up if record["record"] in ("image", "candidate")]
    forward, backward = (SweepRecords.from_dicts(part, make_origin()) for part in (chosen, chosen[::-1]))
    assert one(gains.gain_forest(forward, NOTHING)) == one(gains.gain_forest(backward, NOTHING))


@pytest.mark.parametrize(
    "draw",
    [
        matrices.generalisation_matrix, matrices.drop_matrix, gains.gain_forest, gains.paired_dots, gallery.same_images,
        gallery.worst_and_best, choices.selection_rules, foretold.forecast_scatter, costs.accuracy_and_cost,
        stressed.stress_curves, search.search_history, search.search_fronts, search.parameter_slices,
        embedding.semantic_vectors, trained.training_curves, trained.loss_curves, trained.gradient_curves,
    ],
)  # fmt: skip
def test_without_its_records_there_is_no_figure(draw: Draw, made_up: list[Record]) -> None:
    assert not draw(only(made_up, "cost"), NOTHING)


# ---------------------------------------------------------------------------------------- matrices and gains


def test_numbers_of_figures_are_those_of_the_tables(records: SweepRecords) -> None:
    scores, evidence = Scores(records), Evidence.of(records)
    key = ("hrf", "stare", "gkd")
    assert scores.cell(*key) is evidence.cells("dice_fov")[key]
    assert scores.gain(*key) is evidence.gain_cells("dice_fov")[key]


def test_drop_is_paired_by_seed(records: SweepRecords) -> None:
    frame = records.seed_scores.set_index(["source", "target", "method", "seed"])["dice_fov"]
    drops = [frame["hrf", "stare", "kd", seed] - frame["hrf", "hrf", "kd", seed] for seed in (0, 1, 2)]
    found = Scores(records).drop("hrf", "stare", "kd")
    assert found is not None and found.n == 3 and number(found) == pytest.approx(np.mean(drops))
    assert found.half == pytest.approx(4.302653 * np.std(drops, ddof=1) / np.sqrt(3))  # t(0.975, 2)
    assert Scores(records).drop("hrf", "hrf", "kd") is None


def test_subject_scores_are_means_over_seeds(records: SweepRecords) -> None:
    before, after = Scores(records).subjects("hrf", "stare", "gkd")
    frame = records.subject_scores
    mine = frame[(frame["source"] == "hrf") & (frame["target"] == "stare")]
    by_subject = mine.groupby(["method", "subject"])["dice_fov"].mean()
    assert after == pytest.approx(by_subject["gkd"].to_numpy()) and before == pytest.approx(
        by_subject["scratch"].to_numpy()
    )


def test_domain_that_was_left_out_is_marked_not_available(made_up: list[Record]) -> None:
    images = [record for record in made_up if record["record"] in ("image", "candidate")]
    gone = {"record": "missing", "sweep": "made_up", "domain": "drive", "reason": "no files"}
    records = SweepRecords.from_dicts([*images, gone], make_origin(sources=DOMAINS, targets=(*DOMAINS, "drive")))
    squares = matrices._score_squares(Scores(records), "gkd")
    assert squares["hrf", "drive"] == matrices.Square(None, "n/a", True, False)
    assert squares["hrf", "hrf"].own and not squares["hrf", "stare"].own
    assert squares["hrf", "stare"].words.count("\n") == 1
    assert b"path" in one(matrices.generalisation_matrix(records, NOTHING)).svg


def test_scale_covers_all_methods_and_survives_equal_numbers() -> None:
    assert matrices._widened(0.5, 0.5) == pytest.approx((0.495, 0.505))
    scale = matrices.Scale(("#000000", "#FFFFFF"), 1.0, 3.0)
    assert scale.colour(2.0) == "#808080" and scale.colour(0.5) == "#000000"


def test_forest_says_how_many_subjects_and_how_small_p_can_be(records: SweepRecords) -> None:
    caption = one(gains.gain_forest(records, NOTHING)).caption
    assert "n = 6 subjects" in caption and "0.031" in caption and "3 seeds" in caption


def test_forest_without_student_alone_is_not_drawn(made_up: list[Record]) -> None:
    images = [one for one in made_up if one["record"] in ("image", "candidate") and one["method"] != "scratch"]
    assert gains.gain_forest(SweepRecords.from_dicts(images, make_origin()), NOTHING) is None


def test_paired_dots_count_wins_and_leave_variants_out(records: SweepRecords) -> None:
    figures = gains.paired_dots(records, NOTHING)
    assert [figure.name for figure in figures] == ["paired_subjects_kd", "paired_subjects_gkd"]
    scores = Scores(records)
    pairs = [scores.subjects(*pair, "kd") for pair in scores.pairs]
    wins = sum(int((after > before).sum()) for before, after in pairs)
    assert f"for {wins} of 54 subjects" in figures[0].alt


def test_interval_on_one_side_of_zero_is_beyond_doubt() -> None:
    assert doubtless(Cell(0.1, low=0.01, high=0.2)) and doubtless(Cell(-0.1, low=-0.2, high=-0.01))
    assert not doubtless(Cell(0.1, low=-0.01, high=0.2)) and not doubtless(Cell(0.1))
    with pytest.raises(TypeError, match="not a number"):
        number(None)


# ------------------------------------------------------------------------------------- costs, rules, forecast


def test_pareto_front_matches_a_search_by_hand() -> None:
    rng = np.random.default_rng(3)
    points = [{"dice": float(a), "cost": float(b)} for a, b in rng.integers(0, 6, (40, 2))]

    def beaten(mine: dict[str, float]) -> bool:
        return any(
            other["dice"] >= mine["dice"] and other["cost"] <= mine["cost"] and other != mine for other in points
        )

    expected = [at for at, point in enumerate(points) if not beaten(point)]
    assert pareto_front(points, {"dice": "up", "cost": "down"}) == expected
    assert pareto_front([], {"dice": "up"}) == []


def test_methods_cost_what_their_networks_cost(records: SweepRecords) -> None:
    points = {point.method: point for point in costs._points(Scores(records))}
    assert points["teacher"].costs["parameters"] == 490_000 and points["gkd"].costs["parameters"] == 17_000
    front = costs._front(list(points.values()), "macs")
    assert [point.method for point in front] == ["gkd", "teacher"]


def test_oracle_is_grey_and_said_to_be_never_used(records: SweepRecords) -> None:
    figure = one(choices.selection_rules(records, NOTHING))
    assert "never used" in figure.caption and "oracle" in figure.alt
    assert choices._look("oracle", 3)[0] == "#A6A6A6" and b"#a6a6a6" in figure.svg


def test_forecast_tells_its_verdict_and_its_count(records: SweepRecords) -> None:
    figure = one(foretold.forecast_scatter(records, NOTHING))
    assert "108 points of 6 pairs on 3 targets" in figure.caption and "predicts" in figure.caption


# ------------------------------------------------------------------------------ stress, training and searches


def test_stress_curves_start_clean_and_average_sources_per_seed(made_up: list[Record]) -> None:
    records = only(made_up, "stress", "candidate")
    means = stressed.stress_scores(records)
    curve = stressed._curve(means, "noise", "gkd")
    frame = records.final("stress", "val")
    mine = frame[(frame["method"] == "gkd") & frame["corruption"].isin(["none", "noise"])]
    assert curve["mean"].to_numpy() == pytest.approx(mine.groupby("strength")["dice"].mean().to_numpy())
    assert list(curve.index) == [0, 1, 2] and (curve["min"] <= curve["mean"]).all()


def test_trials_of_a_search_are_not_in_training_curves(made_up: list[Record]) -> None:
    assert set(trained._epochs(only(made_up, "epoch"))["epoch"]) == {1, 2, 3, 4}
    epochs = trained._epochs(only(made_up, "epoch"))
    assert epochs["trial"].isna().all() and len(epochs) == 6 * 3 * 3 * 4


def test_gradients_have_rows_only_for_methods_with_terms(made_up: list[Record]) -> None:
    alt = one(trained.gradient_curves(only(made_up, "epoch"), NOTHING)).alt
    assert "GKD: intra 0.075" in alt and "KD:" not in alt.replace("GKD:", "") and "teacher" not in alt


def test_loss_of_zero_does_not_break_the_logarithmic_scale(made_up: list[Record]) -> None:
    epochs = [{**record, "loss/ce": 0.0} for record in made_up if record["record"] == "epoch"]
    assert one(trained.loss_curves(SweepRecords.from_dicts(epochs), NOTHING)).png


def test_search_shows_how_every_trial_ended(made_up: list[Record]) -> None:
    figure = one(search.search_history(only(made_up, "trial"), NOTHING))
    assert "2 of 4 complete, 0.600 to 0.630" in figure.alt


def trial_records(params: list[dict[str, object]], objectives: list[dict[str, float]]) -> SweepRecords:
    rows = [
        {
            "record": "trial", "sweep": "s", "study": "hrf gkd", "source": "hrf", "method": "gkd", "number": at,
            "params": json.dumps(param), "state": "complete", "value": found["source_val"], "cause": "", "key": "k",
            "objectives": json.dumps(found),
        }
        for at, (param, found) in enumerate(zip(params, objectives, strict=True))
    ]  # fmt: skip
    return SweepRecords.from_dicts(rows)


def test_parameters_of_all_kinds_get_an_axis_each() -> None:
    params: list[dict[str, object]] = [
        {"weight": 10.0**at, "form": form, "on": bool(at)} for at, form in product((-2, 0, 2), ("kl", "mse"))
    ]
    records = trial_records(params, [{"source_val": 0.1 * at} for at in range(6)])
    (figure,) = search.parameter_slices(records, NOTHING)
    assert figure.name == "search_parameters_gkd" and "form mse, on True and weight 100" in figure.alt


def test_search_fronts_need_several_objectives() -> None:
    params: list[dict[str, object]] = [{"a": 0.1}, {"a": 0.2}, {"a": 0.3}]
    single = trial_records(params, [{"source_val": value} for value in (0.5, 0.6, 0.7)])
    assert search.search_fronts(single, NOTHING) is None
    several = [(0.5, 3e6), (0.7, 4e6), (0.6, 5e6)]
    double = trial_records(params, [{"source_val": dice, "student_macs": macs} for dice, macs in several])
    assert "2 of 3 trials on the front" in one(search.search_fronts(double, NOTHING)).alt


# -------------------------------------------------------------------------------------- vectors and pictures


def test_principal_components_match_an_eigendecomposition() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(6, 0, -1)
    scores, explained = embedding._components(vectors)
    values = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]
    assert scores.var(axis=0, ddof=1) == pytest.approx(values)
    assert explained == pytest.approx(values[:2].sum() / values.sum())
    assert embedding._components(vectors[:, :1])[0].shape == (50, 2)


def test_map_is_fitted_once_for_all_panels_and_bounded(records: SweepRecords) -> None:
    rng = np.random.default_rng(0)
    names = product(("teacher", "scratch", "kd", "gkd"), DOMAINS)
    vectors = [VectorSet("hrf", m, 0, d, rng.normal(size=(500, 8)).astype(np.float32)) for m, d in names]
    cloud = embedding._cloud(records, "hrf", vectors)
    assert cloud is not None and list(cloud.methods) == ["teacher", "scratch", "gkd"] and cloud.domains[0] == "hrf"
    assert cloud.pca.shape == (9 * 66, 2) and cloud.tsne is not None and cloud.tsne.shape == cloud.pca.shape
    assert sorted(np.concatenate(list(cloud.rows.values())).tolist()) == list(range(9 * 66))


def test_distances_in_the_panels_are_those_of_the_same_network(records: SweepRecords, extras: Extras) -> None:
    (figure,) = embedding.semantic_vectors(records, extras)
    fsd = records.final("fsd", "test")
    mine = fsd[
        (fsd["space"] == "aligned") & (fsd["method"] == "gkd") & (fsd["seed"] == 0) & (fsd["source"] == DOMAINS[0])
    ]
    value = float(mine[mine["target"] == "stare"]["value"].iloc[0])
    assert f"stare {value:.2f}" in figure.alt.split("GKD:")[1]


def test_few_or_equal_vectors_have_no_map_of_neighbours(records: SweepRecords) -> None:
    same = [VectorSet("hrf", "teacher", 0, name, np.ones((40, 4), np.float32)) for name in DOMAINS]
    cloud = embedding._cloud(records, "hrf", same)
    assert cloud is not None and cloud.tsne is None
    assert embedding._cloud(records, "hrf", [replace(same[0], values=np.ones((2, 4), np.float32))]) is None


def test_same_images_go_through_the_targets_and_show_every_method(records: SweepRecords, extras: Extras) -> None:
    fixed = [picture for picture in extras.pictures if "fixed" in picture.roles]
    rows = gallery._image_rows(records, DOMAINS[0], fixed)
    assert list(rows) == [("hrf", "s0a"), ("stare", "s0a"), (DOMAINS[0], "s0a")]
    (figure,) = gallery.same_images(records, extras)
    assert "GKD 0.590" in figure.alt and "GKD intra" not in figure.alt and "not by result" in figure.caption


def test_worst_and_best_are_the_ends_over_foreign_targets(records: SweepRecords, extras: Extras) -> None:
    changed = [
        replace(picture, score=0.01)
        if (picture.target, picture.method, picture.image) == ("stare", "kd", "s1a")
        else picture
        for picture in extras.pictures
    ]
    (figure,) = gallery.worst_and_best(records, Extras(tuple(changed)))
    assert "KD 0.010 to 0.660" in figure.alt  # the best is foreign: in-domain it is 0.760


def test_cell_without_its_picture_is_left_empty(records: SweepRecords, extras: Extras) -> None:
    fewer = [p for p in extras.pictures if not (p.method == "kd" and p.target == "stare")]
    assert gallery.same_images(records, Extras(tuple(fewer)))[0].png != gallery.same_images(records, extras)[0].png


def test_broken_picture_is_told_plainly(records: SweepRecords, extras: Extras) -> None:
    broken = Extras(tuple(replace(picture, photo=b"not a picture") for picture in extras.pictures))
    with pytest.raises(GkdBenchError, match="no PNG"):
        gallery.same_images(records, broken)
