"""The one contract of every distillation method: outputs of two networks for a batch in, named loss terms out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from gkd_bench.config.method_options import MethodOptions, ViewKind
from gkd_bench.distillation.adversary import Opponent
from gkd_bench.networks.alignment import AlignmentNetwork
from gkd_bench.networks.base import Decoded, Features, SegmentationNetwork


class Batch(NamedTuple):
    """Source-domain training tiles as a method sees them.

    Attributes:
        images: (batch, 1, height, width) float32 in [0, 1]; the anchors.
        labels: (batch, height, width) int64 class numbers.
        views: (views, batch, 1, height, width) augmented anchors, the same draw for teacher and student; views may be 0.
    """

    images: Tensor
    labels: Tensor
    views: Tensor


@dataclass(frozen=True)
class Guides:
    """The frozen networks a method may consult; each is there only for methods that need it.

    Attributes:
        teacher: the large network.
        tan: alignment network of the teacher, with its vector statistics.
        san: alignment network of the student, with its vector statistics.
    """

    teacher: SegmentationNetwork | None = None
    tan: Aligned | None = None
    san: Aligned | None = None


class Aligned(nn.Module):
    """A trained alignment network and the mean and deviation of its vectors over the source's training tiles.

    Args:
        network: TAN or SAN.
        mu: (dim,) mean of the network's own vectors.
        sd: (dim,) standard deviation of the network's own vectors.
    """

    mu: Tensor
    sd: Tensor

    def __init__(self, network: AlignmentNetwork, mu: Tensor, sd: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mu", mu)
        self.register_buffer("sd", sd)

    def vectors(self, bottleneck: Tensor, standardised: bool = False) -> Tensor:
        """(batch, channels, h, w) -> (batch, dim); ``standardised``: minus mean, over deviation."""
        vectors: Tensor = self.network.encode(bottleneck)
        return (vectors - self.mu) / self.sd.clamp_min(1e-6) if standardised else vectors

    def rebuild(self, vectors: Tensor, size: tuple[int, int]) -> Tensor:
        """Header: (batch, dim) -> (batch, channels, *size), a bottleneck of this network's host."""
        feature: Tensor = self.network.header(vectors, size)
        return feature


class StudentOutput(NamedTuple):
    """The student's own pass over the anchors."""

    features: Features
    decoded: Decoded


class Method(nn.Module, ABC):
    """Base of all methods. A method never sees a loop, an optimiser, a file or a target domain.

    What a method trains beside the student, such as projections, and what it remembers, such as a memory bank, are its
    own modules and buffers: the loop optimises and checkpoints them with the student and nobody keeps them afterwards.

    Args:
        options: the method's block of the sweep; its ``guides`` name the networks the method gets.
        guides: those networks, frozen here.
        student: the student, looked at for its shapes; it is handed to ``terms`` and not kept.

    Raises:
        ValueError: a guide that the options ask for is not there.
    """

    opponent: Opponent | None
    """Networks trained against the student, with an optimiser of their own."""

    def __init__(self, options: MethodOptions, guides: Guides, student: SegmentationNetwork) -> None:
        super().__init__()
        self.opponent = None  # a class attribute would hide the module that a method puts here
        missing = [name for name in options.guides if getattr(guides, name) is None]
        if missing:
            raise ValueError(f"{type(self).__name__} needs {' and '.join(missing)}")
        self.guides = guides
        self.frozen = nn.ModuleList([part for part in (guides.teacher, guides.tan, guides.san) if part is not None])
        freeze(self.frozen)
        self._weights = {term: float(getattr(options, option)) for term, option in options.terms.items()}

    @property
    def teacher(self) -> SegmentationNetwork:
        """The frozen teacher. Raises ValueError for a method without one."""
        if self.guides.teacher is None:
            raise ValueError(f"{type(self).__name__} consults no teacher")
        return self.guides.teacher

    @property
    def views(self) -> tuple[ViewKind, ...]:
        """Kinds of the augmented views this method wants beside the anchors."""
        return ()

    def weights(self) -> Mapping[str, float]:
        """Name and weight of every term that ``terms`` returns; terms of weight zero are left out of both."""
        return {term: weight for term, weight in self._weights.items() if weight}

    @abstractmethod
    def terms(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, Tensor]:
        """Scalar loss terms, unweighted; differentiable in the student's and the method's own parameters."""

    def health(self, student: SegmentationNetwork, own: StudentOutput, batch: Batch) -> dict[str, float]:
        """Measurements that tell whether the method's terms can carry information; none by default."""
        return {}

    def own_state(self) -> dict[str, Tensor]:
        """The method's own parameters and buffers, live, without those of the frozen networks."""
        frozen = {id(tensor) for tensor in self.frozen.state_dict(keep_vars=True).values()}
        return {name: t for name, t in self.state_dict(keep_vars=True).items() if id(t) not in frozen}

    def train(self, mode: bool = True) -> Method:
        """Training mode reaches the method's own parts; frozen networks stay in eval mode."""
        super().train(mode)
        self.frozen.eval()
        return self


def freeze(module: nn.Module) -> nn.Module:
    """Eval mode, no parameter gradients; gradients still pass through to the inputs."""
    return module.eval().requires_grad_(False)
