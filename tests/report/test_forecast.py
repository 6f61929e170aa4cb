from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gkd_bench.errors import GkdBenchError
from gkd_bench.report.forecast import MEAN, PREDICTORS, Forecast, Point, forecasts, stress_curve

DOMAINS = ("a", "b", "c", "d", "e")
METHODS = ("scratch", "gkd")
quick = settings(deadline=None, max_examples=60)

Drop = Callable[[float, float], float]


def world(drop: Drop, seed: int = 0, domains: Iterable[str] = DOMAINS, noise: float = 0.01) -> list[Point]:
    """All pairs of domains, two methods, two seeds; a drop is a function of distance and stress, with noise."""
    rng = np.random.default_rng(seed)
    names = tuple(domains)
    distance = {pair: float(rng.uniform(1, 5)) for pair in product(names, repeat=2)}
    stress = {(source, method): float(rng.uniform(0, 0.3)) for source, method in product(names, METHODS)}
    return [
        Point(source, target, method, number,
              drop=drop(distance[source, target], stress[source, method]) + float(rng.normal(0, noise)),
              fsd=distance[source, target], stress_drop=stress[source, method],
              stress_curve_prediction=0.1 * distance[source, target])
        for source, target, method, number in product(names, names, METHODS, (0, 1)) if source != target
    ]  # fmt: skip


def distance_only(fsd: float, stress: float) -> float:
    return 0.1 * fsd


def nothing(fsd: float, stress: float) -> float:
    return 0.2


def named(points: list[Point], seed: int = 0) -> dict[str, Forecast]:
    return {one.predictor.name: one for one in forecasts(points, draws=400, seed=seed)}


def held_out(points: list[Point], inputs: Callable[[Point], list[float]]) -> list[float]:
    """Reference: for each point, least squares on the points that have nothing to do with its target."""
    guesses = []
    for mine in points:
        others = [one for one in points if mine.target not in (one.source, one.target)]
        rows = np.array([[1.0, *inputs(one)] for one in others])
        weights = np.linalg.pinv(rows) @ np.array([one.drop for one in others])
        guesses.append(float(np.array([1.0, *inputs(mine)]) @ weights))
    return guesses


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("fsd", lambda one: [one.fsd]), ("fsd_stress", lambda one: [one.fsd, one.stress_drop]), ("mean", lambda one: [])],
)
def test_each_target_is_predicted_from_domains_other_than_itself(
    name: str, inputs: Callable[[Point], list[float]]
) -> None:
    points = world(lambda fsd, stress: 0.02 * fsd + 0.3 * stress, noise=0.05)
    drops = np.array([one.drop for one in points])
    guesses, means = np.array(held_out(points, inputs)), np.array(held_out(points, lambda one: []))
    found = named(points)[name]
    assert found.mae == pytest.approx(np.abs(drops - guesses).mean())
    assert found.mae_mean == pytest.approx(np.abs(drops - means).mean())
    assert found.skill == pytest.approx(1 - ((drops - guesses) ** 2).sum() / ((drops - means) ** 2).sum())
    if name != "mean":
        assert found.rank == pytest.approx(stats.spearmanr(guesses, drops).statistic)


def test_rank_interval_resamples_pairs_with_all_their_models() -> None:
    points = world(distance_only, noise=0.1)
    drops, guesses = np.array([one.drop for one in points]), np.array(held_out(points, lambda one: [one.fsd]))
    pairs = np.array([f"{one.source}{one.target}" for one in points])
    rows = {pair: np.flatnonzero(pairs == pair) for pair in np.unique(pairs)}
    rng = np.random.default_rng(11)
    chosen = [np.concatenate([rows[pair] for pair in rng.choice(list(rows), len(rows))]) for _ in range(1500)]
    found = [stats.spearmanr(guesses[at], drops[at]).statistic for at in chosen]
    (fsd,) = (one for one in forecasts(points, draws=4000) if one.predictor.name == "fsd")
    assert (fsd.rank_low, fsd.rank_high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])), abs=0.025)


def test_correlation_within_methods_is_the_mean_over_methods() -> None:
    points = [replace(one, drop=round(one.drop, 1)) for one in world(distance_only, noise=0.1)]  # many ties
    drops, guesses = np.array([one.drop for one in points]), np.array(held_out(points, lambda one: [one.fsd]))
    methods = np.array([one.method for one in points])
    each = [stats.spearmanr(guesses[methods == name], drops[methods == name]).statistic for name in METHODS]
    assert named(points)["fsd"].rank_within == pytest.approx(np.mean(each))


def test_method_that_shifts_every_drop_hides_in_all_points_but_not_within() -> None:
    points = [replace(one, drop=one.drop + (one.method == "gkd")) for one in world(distance_only, noise=0.0)]
    fsd = named(points)["fsd"]
    assert fsd.rank is not None and fsd.rank_within is not None
    assert fsd.rank_within > 0.95 > fsd.rank + 0.2


def test_drop_that_follows_distance_is_predicted() -> None:
    found = named(world(distance_only))
    for name in ("fsd", "fsd_stress", "stress_curve"):
        one = found[name]
        assert one.predicts and one.skill is not None and one.rank_low is not None
        assert one.skill > 0.9 and one.rank_low > 0.9
        assert "predicts the Dice drop (misses by 0.0" in one.verdict
    assert (found["fsd"].points, found["fsd"].pairs, found["fsd"].targets) == (80, 20, 5)
    assert "80 points of 20 pairs on 5 targets" in found["fsd"].verdict


def test_drop_that_follows_stress_needs_stress() -> None:
    found = named(world(lambda fsd, stress: stress))
    assert not found["fsd"].predicts
    assert found["fsd_stress"].predicts


def test_drop_without_a_pattern_is_said_to_be_unpredicted() -> None:
    found = named(world(nothing, noise=0.05))
    for name in ("fsd", "fsd_stress", "stress_curve"):
        assert not found[name].predicts
        assert ": predicts nothing (misses by " in found[name].verdict


def test_worlds_without_a_pattern_are_rarely_taken_for_predictable() -> None:
    taken = [named(world(nothing, seed, noise=0.05), seed)["fsd"].predicts for seed in range(60)]
    assert np.mean(taken) <= 0.05


def test_a_good_order_with_bad_numbers_predicts_nothing() -> None:
    points = [replace(one, stress_curve_prediction=0.5 + one.fsd / 10) for one in world(distance_only)]
    curve = named(points)["stress_curve"]
    assert curve.skill is not None and curve.rank_low is not None
    assert curve.rank_low > 0.9 and curve.skill < 0
    assert not curve.predicts


def test_stress_curve_predictions_are_judged_as_they_are() -> None:
    points = world(distance_only)
    misses = [abs(one.drop - 0.1 * one.fsd) for one in points]
    assert named(points)["stress_curve"].mae == pytest.approx(np.mean(misses))


def test_mean_of_the_other_targets_is_the_zero_of_skill() -> None:
    mean = named(world(distance_only))["mean"]
    assert (mean.skill, mean.rank, mean.predicts) == (0.0, None, False)
    assert mean.mae == mean.mae_mean
    assert mean.verdict.startswith("mean drop of the other targets: misses the Dice drop by 0.")


def test_models_at_home_are_no_points() -> None:
    points = world(distance_only)
    home = [replace(one, target=one.source, drop=0.0, fsd=0.0) for one in points]
    assert named([*points, *home]) == named(points)


def test_each_predictor_is_judged_on_the_points_that_have_its_inputs() -> None:
    points = [replace(one, stress_drop=None, stress_curve_prediction=None) if one.method == "gkd" else one
              for one in world(distance_only)]  # fmt: skip
    found = named(points)
    assert [found[one.name].points for one in PREDICTORS] == [80, 40, 40, 80]
    assert found["stress_curve"] == named([one for one in points if one.method != "gkd"])["stress_curve"]


def test_fewer_than_three_targets_cannot_be_judged() -> None:
    for one in forecasts(world(distance_only, domains="ab")):
        assert (one.mae, one.skill, one.rank, one.predicts) == (None, None, None, False)
        assert one.reason == "at least 3 targets with all its inputs are needed, here 2"
        assert f"cannot be judged, {one.reason} (8 points of 2 pairs on 2 targets)" in one.verdict


def test_no_points_cannot_be_judged() -> None:
    assert {one.reason for one in forecasts([])} == {"at least 3 targets with all its inputs are needed, here 0"}


def test_constant_distance_cannot_be_judged_and_says_so() -> None:
    found = named([replace(one, fsd=2.0, stress_drop=0.1) for one in world(nothing)])
    assert found["fsd"].reason == "FSD: the same everywhere"
    assert found["fsd_stress"].reason == "FSD and stress drop: the same everywhere"
    assert found["mean"].mae is not None


def test_constant_drop_cannot_be_judged() -> None:
    found = named([replace(one, drop=0.2) for one in world(nothing)])
    assert {one.reason for one in found.values()} == {"the drop is the same everywhere"}


def test_target_that_is_part_of_every_pair_leaves_nothing_to_learn_from() -> None:
    points = [one for one in world(distance_only, domains="abc") if one.source == "a" or one.target == "a"]
    assert named(points)["fsd"].reason == "without a no pair is left to learn from"


def test_few_pairs_have_numbers_but_no_interval() -> None:
    points = [one for one in world(distance_only) if one.source == "a"]  # four targets
    fsd = named(points)["fsd"]
    assert fsd.mae is not None and fsd.skill is not None and fsd.skill > 0
    assert (fsd.rank_low, fsd.predicts) == (None, False)
    assert fsd.reason == "an interval needs at least 5 pairs, here 4"
    assert "cannot be told from chance" in fsd.verdict and fsd.reason in fsd.verdict


def test_other_domains_at_one_distance_give_their_mean() -> None:
    # Single source: all but target e are equally far, so that nothing but their mean can be said about e.
    far = {"b": 2.0, "c": 2.0, "d": 2.0, "e": 4.0}
    drops = {"b": 0.1, "c": 0.2, "d": 0.3, "e": 0.4}
    points = [Point("a", target, "gkd", 0, drops[target], fsd) for target, fsd in far.items()]
    # e: 0.2, misses 0.2. b, c, d: the line through the mean of the two others at 2 and 0.4 at 4, at 2: 0.25, 0.2, 0.15.
    fsd = named(points)["fsd"]
    assert fsd.mae == pytest.approx((0.2 + 0.15 + 0.0 + 0.15) / 4)


def test_the_same_seed_gives_the_same_interval() -> None:
    points = world(distance_only, noise=0.1)
    assert named(points, 1) == named(points, 1)
    assert named(points, 1)["fsd"].rank_low != named(points, 2)["fsd"].rank_low


@settings(deadline=None, max_examples=8)
@given(st.permutations(range(80)))
def test_order_of_points_does_not_matter(order: list[int]) -> None:
    points = world(distance_only, noise=0.1)
    for one, other in zip(forecasts(points, draws=50), forecasts([points[at] for at in order], draws=50), strict=True):
        assert (one.predictor, one.points) == (other.predictor, other.points)
        assert (one.mae, one.skill) == (pytest.approx(other.mae), pytest.approx(other.skill))
        if one.predictor != MEAN:
            assert (one.rank, one.rank_low) == (pytest.approx(other.rank), pytest.approx(other.rank_low))


def test_undefined_points_are_refused_with_the_first() -> None:
    points = world(distance_only)
    with pytest.raises(GkdBenchError, match="1 points of the forecast are not finite, first a -> b, scratch, seed 0"):
        forecasts([replace(points[0], fsd=math.nan), *points[1:]])


def test_stress_curve_is_the_hand_calculation() -> None:
    # Clean at 2.0; steps 1, 2, 2 with drops 0.1, 0.1, 0.3: slope (0.1 + 0.2 + 0.6) / (1 + 4 + 4) = 0.1.
    curve = stress_curve([2.0, 3.0, 4.0, 4.0], [0.0, 0.1, 0.1, 0.3])
    assert curve is not None
    assert [curve(fsd) for fsd in (2.0, 3.0, 7.0)] == pytest.approx([0.0, 0.1, 0.5])


def test_stress_curve_stays_a_possible_drop() -> None:
    curve = stress_curve([2.0, 3.0], [0.0, 0.1])
    assert curve is not None
    assert curve(0.5) == 0.0  # nearer than the clean images
    assert curve(200.0) == 1.0
    rising = stress_curve([2.0, 3.0], [0.0, -0.1])
    assert rising is not None and rising(5.0) == 0.0


def test_stress_that_moves_nothing_gives_no_curve() -> None:
    assert stress_curve([2.0, 2.0, 2.0], [0.0, 0.1, 0.2]) is None
    assert stress_curve([2.0], [0.0]) is None
    assert stress_curve([], []) is None


def test_stress_curve_refuses_what_does_not_go_together() -> None:
    for fsd, drop in (([1.0, 2.0], [0.0]), ([1.0, math.nan], [0.0, 0.1])):
        with pytest.raises(GkdBenchError, match="one finite drop per finite FSD"):
            stress_curve(fsd, drop)


@quick
@given(st.lists(st.tuples(st.floats(0, 9), st.floats(-0.5, 1)), max_size=8), st.floats(0, 20), st.floats(0, 5))
def test_stress_curve_never_falls(conditions: list[tuple[float, float]], start: float, step: float) -> None:
    curve = stress_curve([1.0, *(fsd for fsd, _ in conditions)], [0.0, *(drop for _, drop in conditions)])
    if curve is not None:
        assert 0 <= curve(start) <= curve(start + step) <= 1
