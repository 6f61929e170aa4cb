"""What a network costs where it is used: parameters, multiply-accumulates, latency and peak memory of one forward pass."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

MEGABYTE = 1e6


@dataclass(frozen=True)
class Efficiency:
    """Cost of one network at one input.

    Attributes:
        input: size of the input, such as ``1x1x96x96``.
        parameters: number of parameters, trainable or not.
        macs: multiply-accumulates of one forward pass; see :func:`count_macs`.
        device: type of the device it was measured on, ``cpu`` or ``cuda``.
        threads: CPU threads of the forward pass.
        latency_p50_ms: median milliseconds of a forward pass.
        latency_p95_ms: 95th percentile of them.
        peak_memory_mb: most memory held during a forward pass, in 10^6 bytes; see :func:`measure` for what counts.
    """

    input: str
    parameters: int
    macs: int
    device: str
    threads: int
    latency_p50_ms: float
    latency_p95_ms: float
    peak_memory_mb: float

    def record(self) -> dict[str, str | int | float]:
        """The fields as plain JSON values."""
        return asdict(self)


def measure(
    network: nn.Module,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    threads: int = 1,
    repeats: int = 50,
    warmup: int = 5,
) -> Efficiency:
    """Measure a copy of a network, in eval mode and without gradients; the network itself is left as it is.

    Latency is the wall-clock time of one forward pass on an input that is on the device already, after the warm-up passes,
    on CUDA until the device has finished. Peak memory is of parameters, buffers, input and activations together:

    * on CUDA, what PyTorch's allocator held at most, scratch memory of the kernels included;
    * elsewhere, the bytes of all tensors that live at the same time, followed operation by operation. Scratch memory
      inside an operation and the process around it are left out, so the number does not depend on the machine.

    Args:
        network: takes one tensor of ``shape``.
        shape: size of the input with the batch first, (1, 1, 96, 96) for one grey tile.
        device: where to run.
        threads: CPU threads to run with.
        repeats: timed passes, at least 1; the 95th percentile wants 20 or more.
        warmup: passes before them, at least 0.

    Raises:
        ValueError: a size, ``threads`` or ``repeats`` is below 1, or ``warmup`` is below 0.
    """
    _check(shape, threads=threads, repeats=repeats, warmup=warmup)
    place = torch.device(device)
    with _cpu_threads(threads), torch.no_grad():
        peak = _peak_bytes(network, shape, place)
        replica, images = _replica(network, place), torch.zeros(tuple(shape), device=place)
        milliseconds = _latencies(lambda: replica(images), place, repeats, warmup)
    p50, p95 = (float(value) for value in np.percentile(milliseconds, (50, 95)))
    return Efficiency(
        input="x".join(str(size) for size in shape),
        parameters=sum(p.numel() for p in network.parameters()),
        macs=count_macs(network, shape),
        device=place.type,
        threads=threads,
        latency_p50_ms=p50,
        latency_p95_ms=p95,
        peak_memory_mb=peak / MEGABYTE,
    )


def count_macs(network: nn.Module, shape: Sequence[int]) -> int:
    """Multiply-accumulates of one forward pass in eval mode: half of what torch's ``FlopCounterMode`` counts.

    It counts convolutions, transposed convolutions, matrix products and attention; not normalisations, activations, pooling and
    resizing, which are few beside them. Nothing is computed: a copy without values (``meta`` device) is followed, so
    the count takes milliseconds at any size and is the same on every machine.

    Args:
        network: takes one tensor of ``shape``.
        shape: size of the input with the batch first.

    Raises:
        ValueError: a size is below 1.
    """
    _check(shape)
    replica, counter = _replica(network, torch.device("meta")), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        replica(torch.zeros(tuple(shape), device="meta"))
    return int(counter.get_total_flops()) // 2


def _check(shape: Sequence[int], threads: int = 1, repeats: int = 1, warmup: int = 0) -> None:
    if not shape or min(shape) < 1:
        raise ValueError(f"the input's size must be positive numbers with the batch first, not {tuple(shape)}")
    if threads < 1 or repeats < 1 or warmup < 0:
        raise ValueError(f"threads {threads} and repeats {repeats} must be at least 1, warmup {warmup} at least 0")


def _replica(network: nn.Module, device: torch.device) -> nn.Module:
    return copy.deepcopy(network).to(device).eval()


@contextmanager
def _cpu_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _latencies(forward: Callable[[], object], device: torch.device, repeats: int, warmup: int) -> list[float]:
    """Milliseconds of each timed pass."""
    for _ in range(warmup):
        forward()
    taken = []
    for _ in range(repeats):
        _synchronise(device)
        start = time.perf_counter()
        forward()
        _synchronise(device)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_bytes(network: nn.Module, shape: Sequence[int], device: torch.device) -> int:
    if device.type == "cuda":
        return _cuda_peak_bytes(network, shape, device)
    replica, images = _replica(network, device), torch.zeros(tuple(shape), device=device)
    live = _LiveTensors([images, *replica.parameters(), *replica.buffers()])
    with live:
        replica(images)
    return live.peak


def _cuda_peak_bytes(network: nn.Module, shape: Sequence[int], device: torch.device) -> int:
    """Peak of the allocator above what it held before, so that other networks on the device do not count."""
    before = torch.cuda.memory_allocated(device)
    replica, images = _replica(network, device), torch.zeros(tuple(shape), device=device)
    torch.cuda.reset_peak_memory_stats(device)
    replica(images)
    torch.cuda.synchronize(device)
    peak: int = torch.cuda.max_memory_allocated(device)
    return peak - before


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes untyped
    """Follows every operation run inside it and keeps the largest number of bytes that tensors held at one time.

    Attributes:
        peak: that number; memory shared by several tensors counts once.
    """

    def __init__(self, held: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._bytes = 0
        self._known: set[int] = set()
        for tensor in held:
            self._hold(tensor.untyped_storage())

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation and hold what it made."""
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        """Count memory until nothing refers to it any more."""
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self._bytes += storage.nbytes()
        self.peak = max(self.peak, self._bytes)
        weakref.finalize(storage, self._release, key, storage.nbytes())

    def _release(self, key: int, count: int) -> None:
        self._known.discard(key)
        self._bytes -= count
