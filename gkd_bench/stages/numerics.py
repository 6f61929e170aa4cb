"""Reproducible arithmetic: seeds as pure functions of (seed, step, rank), deterministic algorithms, precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def derived_seed(*parts: int) -> int:
    """One 63-bit seed from several integers >= 0; near inputs give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) & (2**63 - 1)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Mixed precision for the forward pass; ``fp32`` is a no-op."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


@contextmanager
def reproducible(device: torch.device, threads: int) -> Iterator[None]:
    """Deterministic kernels, a fixed thread count and an untouched global random state around a stage.

    On CUDA a kernel without a deterministic version warns instead of failing, and float32 means float32, not TF32.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.allow_tf32 = False
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    old_threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            torch.set_num_threads(old_threads)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed dropout and other in-network draws of one step, so that a resumed run repeats them."""
    torch.manual_seed(derived_seed(seed, step, rank))
