"""P-SAE, the Pre-trained Semantic AutoEncoder: label maps to semantic vectors and back (reconstruction, see docs/method.md)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.blocks import dropped_head
from gkd_bench.networks.fanet import SelectiveKernelEncoder, xavier_convolutions

_SMALLEST_DEVIATION = 0.1


class SemanticAutoencoder(nn.Module):
    """LatentNet: FANet's encoder on a label map, then three linear transposed convolutions; 26.83 M parameters at width 1.

    There is nothing between the transposed convolutions, and there are no skips: all the decoder knows comes through the
    bottleneck. Structure from the authors' code; the losses it is trained with are a reconstruction.

    Label maps of several classes come as one-hot maps, one channel per foreground class.

    Args:
        width: factor on all channels.
        classes: foreground classes.

    Attributes:
        stride: mask pixels per bottleneck position.
        bottleneck_channels: channels of the bottleneck, 512 at width 1.0.
    """

    stride = 8

    def __init__(self, width: float = 1.0, classes: int = 1) -> None:
        super().__init__()
        self.width, self.classes = width, classes
        self.encoder = SelectiveKernelEncoder(width, in_channels=classes)
        first, second, third, fourth = self.encoder.channels
        self.bottleneck_channels = fourth
        steps = ((fourth, third), (third, second), (second, first))
        self.up = nn.Sequential(*(nn.ConvTranspose2d(i, o, 2, stride=2) for i, o in steps))
        self.head = dropped_head(first, classes)
        self.apply(xavier_convolutions)

    def encode(self, masks: Tensor) -> Tensor:
        """Masks (batch, classes, height, width) in [0, 1] -> bottleneck (batch, channels, ceil(height/8), ceil(width/8)).

        Sides that are no multiple of 8 are padded by replication.
        """
        pad = (-masks.shape[-1] % self.stride, -masks.shape[-2] % self.stride)
        padded = F.pad(masks, (0, pad[0], 0, pad[1]), mode="replicate") if any(pad) else masks
        bottleneck: Tensor = self.encoder(padded)[-1]
        return bottleneck

    def decode(self, bottleneck: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Bottleneck -> mask logits (batch, classes, 8 h, 8 w), cropped to ``size`` where one is given."""
        logits: Tensor = self.head(self.up(bottleneck))
        return logits if size is None else logits[..., : size[0], : size[1]]

    def forward(self, masks: Tensor) -> Tensor:
        """Masks (batch, classes, height, width) in [0, 1] -> logits of the same shape."""
        return self.decode(self.encode(masks), (masks.shape[-2], masks.shape[-1]))


def one_hot_masks(labels: Tensor, classes: int) -> Tensor:
    """(batch, height, width) class numbers -> (batch, classes, height, width) float32 in {0, 1}, without the background."""
    return torch.stack([labels == number for number in range(1, classes + 1)], dim=1).float()


class Reconstruction(NamedTuple):
    """What the vector part is trained on (reconstruction, see docs/method.md).

    Attributes:
        vector: (batch, dim).
        rebuilt: bottleneck made from the vector, (batch, channels, h, w).
        bottleneck: the autoencoder's own, no gradient.
        logits: mask logits decoded from ``rebuilt``, (batch, classes, height, width).
    """

    vector: Tensor
    rebuilt: Tensor
    bottleneck: Tensor
    logits: Tensor


def vector_moments(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (dim,) float64 each, of vectors (samples, dim), to standardise with.

    Entries that hardly vary get a tenth of the root-mean-square deviation, so that standardising does not blow their
    noise up (ours); 1 where no entry varies.
    """
    deviation, mean = torch.std_mean(vectors.double(), dim=0, correction=0)
    typical = deviation.square().mean().sqrt()
    floor = _SMALLEST_DEVIATION * typical if typical > 0 else torch.ones_like(typical)
    return mean, deviation.clamp(min=float(floor))


class SemanticPrior(nn.Module):
    """A frozen autoencoder and the vector part on its bottleneck; what ACT regularises alignment networks with.

    The autoencoder takes no updates and stays in eval mode, whatever ``train`` says, yet passes gradients to vectors.

    Args:
        autoencoder: trained mask autoencoder.
        vector_part: alignment network of the autoencoder's bottleneck shape.

    Attributes:
        v_mu: (dim,) mean of the vectors of the training masks; 0 until fitted.
        v_sd: (dim,) their deviation; 1 until fitted.
    """

    v_mu: Tensor
    v_sd: Tensor

    def __init__(self, autoencoder: SemanticAutoencoder, vector_part: AlignmentNetwork) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.vector_part = vector_part
        self.register_buffer("v_mu", torch.zeros(vector_part.dim))
        self.register_buffer("v_sd", torch.ones(vector_part.dim))

    def train(self, mode: bool = True) -> SemanticPrior:
        """Training mode for the vector part only."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def masks(self, labels: Tensor) -> Tensor:
        """(batch, height, width) class numbers -> the masks that this autoencoder takes."""
        return one_hot_masks(labels, self.autoencoder.classes)

    def vector(self, masks: Tensor) -> Tensor:
        """Masks (batch, classes, height, width) in [0, 1] -> semantic vectors (batch, dim)."""
        with torch.no_grad():
            bottleneck = self.autoencoder.encode(masks)
        return self.vector_part.encode(bottleneck)

    def mask_logits(self, vectors: Tensor, size: tuple[int, int]) -> Tensor:
        """Vectors (batch, dim) -> mask logits (batch, classes, *size); differentiable in the vectors."""
        stride = self.autoencoder.stride
        grid = (-(-size[0] // stride), -(-size[1] // stride))
        return self.autoencoder.decode(self.vector_part.header(vectors, grid), size)

    def forward(self, masks: Tensor) -> Reconstruction:
        """Masks (batch, classes, height, width) in [0, 1] -> vector, both bottlenecks, mask logits."""
        with torch.no_grad():
            bottleneck = self.autoencoder.encode(masks)
        vector, rebuilt = self.vector_part(bottleneck)
        logits = self.autoencoder.decode(rebuilt, (masks.shape[-2], masks.shape[-1]))
        return Reconstruction(vector, rebuilt, bottleneck, logits)

    @torch.no_grad()
    def fit_statistics(self, vectors: Tensor) -> None:
        """Set ``v_mu`` and ``v_sd`` from the vectors (samples, dim) of the training masks; see :func:`vector_moments`."""
        mean, deviation = vector_moments(vectors)
        self.v_mu.copy_(mean)
        self.v_sd.copy_(deviation)
