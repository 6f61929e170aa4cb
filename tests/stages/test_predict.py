from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gkd_bench.data.windows import Blend, Floats, slide
from gkd_bench.networks.base import SegmentationNetwork, class_probabilities, foreground_probability
from gkd_bench.networks.little_unet import LittleUNet
from gkd_bench.networks.unet import UNet
from gkd_bench.stages import predict as module
from gkd_bench.stages.predict import predict_slices

CPU = torch.device("cpu")
TILE = 32
BLENDS: tuple[Blend, ...] = ("uniform", "gaussian")


class Edgy(SegmentationNetwork):
    """A 5x5 convolution: near the border of its window a pixel gets another value than in the middle."""

    stride, bottleneck_channels = 1, 1

    def __init__(self, width: float = 1.0, in_channels: int = 1, classes: int = 2) -> None:
        super().__init__(width, in_channels, classes)
        torch.manual_seed(0)
        self.conv = nn.Conv2d(in_channels, classes, 5, padding=2)
        self.batches: list[int] = []

    def _encode(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        self.batches.append(len(images))
        return images, (), ()

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return 4 * self.conv(bottleneck), bottleneck


class ChannelsFirst(Edgy):
    """Reshapes with ``view`` in a way that only works with the channels first."""

    def _decode(self, bottleneck: Tensor, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        logits, tap = super()._decode(bottleneck, maps)
        return logits.view(len(logits), -1).view(logits.shape), tap


def random_slices(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@torch.no_grad()
def one_by_one(
    network: SegmentationNetwork, slices: NDArray[np.uint8], overlap: float = 0.5, blend: Blend = "uniform"
) -> Floats:
    """The numpy sliding window on every slice, with the plain network."""

    def probability(tiles: Floats) -> Floats:
        found: Floats = class_probabilities(network(torch.from_numpy(tiles))).numpy()
        return found

    return np.stack([slide(one, TILE, probability, overlap, 8, blend) for one in slices])


# ---------------------------------------------------------------- probabilities of classes


def test_class_probabilities_leave_out_the_background() -> None:
    logits = torch.randn(2, 4, 5, 6)
    found = class_probabilities(logits)
    assert found.shape == (2, 3, 5, 6)
    assert torch.equal(found, torch.softmax(logits, 1)[:, 1:])
    assert torch.equal(class_probabilities(logits[:, :2])[:, 0], foreground_probability(logits[:, :2]))


# ---------------------------------------------------------------- stacks


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("size", [(64, 96), (57, 41), (20, 45), (5, 9)])
def test_a_stack_is_what_its_slices_are_one_by_one(
    size: tuple[int, int], classes: int, channels: int, blend: Blend
) -> None:
    slices = random_slices(5, *size, *([channels] if channels > 1 else []))
    network = Edgy(in_channels=channels, classes=classes).eval()
    found = predict_slices(network, slices, TILE, CPU, 0.5, 3, blend)
    assert found.shape == (5, classes - 1, *size) and found.dtype == np.float32
    assert np.allclose(found, one_by_one(network, slices, 0.5, blend), atol=1e-6)


@pytest.mark.parametrize("make", [lambda: UNet(0.0625, classes=3), lambda: LittleUNet(0.25, classes=3)])
def test_layout_of_the_windows_changes_a_real_networks_probabilities_by_rounding_only(make: Any) -> None:
    torch.manual_seed(0)
    network, slices = make(), random_slices(3, 70, 50)
    for norm in [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]:
        norm.momentum = (
            1.0  # the statistics of one batch; without any, an untrained network answers the same everywhere
        )
    network.train()(torch.rand(8, 1, TILE, TILE))
    network.eval()
    found = predict_slices(network, slices, TILE, CPU, 0.25, 8, "gaussian")
    assert found.std() > 1e-2
    assert np.allclose(found, one_by_one(network, slices, 0.25, "gaussian"), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 7, 9, 100])
def test_chunks_and_batches_do_not_change_results(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network, slices = Edgy(classes=3).eval(), random_slices(11, 50, 64)
    whole = predict_slices(network, slices, TILE, CPU, 0.5, 11)
    network.batches.clear()
    monkeypatch.setattr(module, "_CPU_SLICES", 4)
    assert np.allclose(predict_slices(network, slices, TILE, CPU, 0.5, batch), whole, atol=1e-6)
    assert max(network.batches) <= batch
    assert sum(network.batches) == 11 * 3 * 3


def test_few_slices_share_a_forward_pass_over_several_windows() -> None:
    network = Edgy().eval()
    predict_slices(network, random_slices(1, 64, 64), TILE, CPU, 0.5, 4)
    assert network.batches == [4, 4, 1]


def test_a_memory_map_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    slices, network = random_slices(6, 40, 40), Edgy().eval()
    np.save(tmp_path / "slices.npy", slices)
    mapped = np.load(tmp_path / "slices.npy", mmap_mode="r")
    assert np.array_equal(
        predict_slices(network, mapped, TILE, CPU, batch=4), predict_slices(network, slices, TILE, CPU, batch=4)
    )
    assert np.array_equal(np.load(tmp_path / "slices.npy"), slices)


def test_no_slices_give_no_probabilities() -> None:
    assert predict_slices(Edgy(classes=3).eval(), random_slices(0, 40, 50), TILE, CPU).shape == (0, 2, 40, 50)


def test_a_network_that_wants_its_channels_first_gets_them_so() -> None:
    slices, network = random_slices(3, 40, 40), ChannelsFirst(classes=3).eval()
    assert np.allclose(predict_slices(network, slices, TILE, CPU), one_by_one(network, slices), atol=1e-6)


def test_an_error_of_the_network_is_not_hidden() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        predict_slices(Edgy(in_channels=3).eval(), random_slices(2, 40, 40), TILE, CPU)


def test_gradients_are_neither_kept_nor_switched_off_for_good() -> None:
    network = Edgy().eval()
    predict_slices(network, random_slices(1, 40, 40), TILE, CPU)
    assert network(torch.rand(1, 1, 8, 8)).requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("size", [256, 192])
def test_gaussian_blending_is_monais(size: int) -> None:
    inferers = pytest.importorskip("monai.inferers")
    network, slices = Edgy(classes=3).eval(), random_slices(3, size, size)
    with torch.no_grad():
        theirs = inferers.sliding_window_inference(
            torch.from_numpy(slices)[:, None] / 255,
            TILE,
            8,
            lambda tiles: class_probabilities(network(tiles)),
            overlap=0.5,
            mode="gaussian",
        )
    assert np.abs(predict_slices(network, slices, TILE, CPU, 0.5, 8, "gaussian") - theirs.numpy()).max() < 1e-5


# ---------------------------------------------------------------- one image


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("shape", [(64, 57), (64, 57, 3), (11, 40)])
def test_an_image_of_two_classes_has_one_map(shape: tuple[int, ...], blend: Blend) -> None:
    image, network = random_slices(*shape), Edgy(in_channels=3 if len(shape) == 3 else 1).eval()
    found = predict_slices(network, image[None], TILE, CPU, 0.25, 5, blend)[0, 0]
    assert found.shape == shape[:2]
    assert np.allclose(found, one_by_one(network, image[None], 0.25, blend)[0, 0], atol=1e-6)


def test_an_image_of_more_classes_has_a_map_of_each() -> None:
    image, network = random_slices(50, 40), Edgy(classes=4).eval()
    (found,) = predict_slices(network, image[None], TILE, CPU)
    assert found.shape == (3, 50, 40)
    assert np.allclose(found, one_by_one(network, image[None])[0], atol=1e-6)


# ---------------------------------------------------------------- validation


def test_validation_refuses_images_of_a_test_split() -> None:
    from gkd_bench.data.cache import TestImages
    from gkd_bench.errors import LeakError
    from gkd_bench.stages.validation import validation_dice

    images, context = object.__new__(TestImages), object()
    with pytest.raises(LeakError):
        validation_dice(Edgy(), images, context)  # type: ignore[arg-type]
