from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as connected_parts
from skimage.morphology import skeletonize

from gkd_bench.metrics.topology import topology_metrics

Mask = NDArray[np.bool_]


def _blobs(seed: int, shape: tuple[int, int] = (50, 70)) -> Mask:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return np.asarray(noise > np.quantile(noise, 0.7))


def _network(shape: tuple[int, int] = (41, 61)) -> Mask:
    """A trunk three pixels wide with four branches."""
    mask = np.zeros(shape, bool)
    mask[19:22, 3:-3] = True
    mask[3:-3, 10:50:10] = True
    return mask


def _reference(found: Mask, truth: Mask) -> float:
    """Centre-line Dice on the whole image, with sets of pixels."""
    sets = [
        set(map(tuple, np.argwhere(mask).tolist())) for mask in (found, truth, skeletonize(found), skeletonize(truth))
    ]
    precision, sensitivity = len(sets[2] & sets[1]) / len(sets[2]), len(sets[3] & sets[0]) / len(sets[3])
    return 2 * precision * sensitivity / (precision + sensitivity)


@pytest.mark.parametrize("seed", range(6))
def test_random_blobs_equal_the_definition(seed: int) -> None:
    found, truth = _blobs(seed), _blobs(seed + 50)
    values = topology_metrics(found, truth)
    parts = [connected_parts(mask, np.ones((3, 3)))[1] for mask in (found, truth)]
    assert values["cldice"] == pytest.approx(_reference(found, truth))
    assert values["components"] == abs(parts[0] - parts[1])


def test_masks_of_one_image_far_apart_are_thinned_in_their_own_boxes() -> None:
    found, truth = np.zeros((2, 120, 90), bool)
    found[5:45, 10:40] = _blobs(0, (40, 30))
    truth[5:45, 10:40], truth[60:110, 20:80] = _blobs(0, (40, 30)), _blobs(1, (50, 60))
    assert topology_metrics(found, truth)["cldice"] == pytest.approx(_reference(found, truth))


def test_perfect_prediction_is_perfect() -> None:
    assert topology_metrics(_network(), _network()) == {"cldice": 1.0, "components": 0.0}


def test_thinner_prediction_on_the_centre_line_is_perfect_where_dice_is_not() -> None:
    truth = np.zeros((21, 60), bool)
    truth[7:14, 5:55] = True
    found = skeletonize(truth)
    assert topology_metrics(found, truth) == {"cldice": 1.0, "components": 0.0}
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) < 0.4


def test_missed_branch_lowers_centre_line_dice_by_its_length() -> None:
    truth, found = np.zeros((2, 30, 30), bool)
    truth[5, 0:30] = truth[15, 0:10] = True
    found[5, 0:30] = True
    assert topology_metrics(found, truth) == {"cldice": pytest.approx(2 * 0.75 / 1.75), "components": 1.0}


def test_gaps_break_a_vessel_into_parts() -> None:
    truth = np.zeros((9, 50), bool)
    truth[4] = True
    found = truth.copy()
    found[4, [10, 20, 30]] = False
    assert topology_metrics(found, truth)["components"] == 3.0
    assert topology_metrics(truth, found)["components"] == 3.0


def test_diagonal_pixels_are_one_part() -> None:
    assert topology_metrics(np.eye(8), np.eye(8)[:, ::-1])["components"] == 0.0
    assert topology_metrics(np.eye(8), np.zeros((8, 8)))["components"] == 1.0


def test_masks_without_common_pixel_have_no_centre_line_dice() -> None:
    found, truth = np.zeros((2, 9, 9), bool)
    found[2, 1:8], truth[6, 1:8] = True, True
    assert topology_metrics(found, truth) == {"cldice": 0.0, "components": 0.0}


def test_both_empty_is_perfect() -> None:
    assert topology_metrics(np.zeros((5, 6)), np.zeros((5, 6))) == {"cldice": 1.0, "components": 0.0}
    assert topology_metrics(np.zeros((0, 6)), np.zeros((0, 6))) == {"cldice": 1.0, "components": 0.0}


def test_one_empty_is_worst() -> None:
    found = np.zeros((9, 9))
    found[1, 1] = found[5, 5] = 1
    assert topology_metrics(found, np.zeros((9, 9))) == {"cldice": 0.0, "components": 2.0}
    assert topology_metrics(np.zeros((9, 9)), found) == {"cldice": 0.0, "components": 2.0}


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 9), (9, 1), (2, 7), (30, 20)])
def test_full_masks_of_any_size_keep_a_centre_line(shape: tuple[int, int]) -> None:
    assert topology_metrics(np.ones(shape), np.ones(shape)) == {"cldice": 1.0, "components": 0.0}


def test_single_pixel_inside_a_full_mask() -> None:
    single = np.zeros((11, 7))
    single[5, 3] = 1
    values = topology_metrics(single, np.ones((11, 7)))
    assert values["components"] == 0.0
    assert values["cldice"] == pytest.approx(_reference(single > 0, np.ones((11, 7), bool)))


def test_labels_of_255_and_strided_views_are_masks() -> None:
    found, truth = _blobs(0), _blobs(1)
    wide = np.zeros((100, 140), np.uint8)
    wide[::2, ::2] = found * 255
    assert topology_metrics(wide[::2, ::2], np.asfortranarray(truth)) == topology_metrics(found, truth)


@pytest.mark.parametrize("shapes", [((3, 3), (3, 4)), ((3, 3, 3), (3, 3, 3)), ((9,), (9,))])
def test_other_shapes_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        topology_metrics(np.ones(shapes[0]), np.ones(shapes[1]))
