"""The closed lists of what a sweep file may name, as lazy import paths: reading this module imports nothing heavy.

A new data set, network or method is one new file and one line here; the conformance tests run over these lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any


class Registry(Mapping[str, str]):
    """Names of one kind, each with the import path ``module:attribute`` of what it stands for."""

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """Import and return what ``name`` stands for. Raises KeyError for an unknown name."""
        module, _, attribute = self[name].partition(":")
        return getattr(import_module(module), attribute)


DOMAINS = Registry(
    "domain",
    {
        "chase_db1": "gkd_bench.data.readers.chase_db1:ChaseDb1",
        "stare": "gkd_bench.data.readers.stare:Stare",
        "drive": "gkd_bench.data.readers.drive:Drive",
        "hrf": "gkd_bench.data.readers.hrf:Hrf",
        "phantom_clear": "gkd_bench.data.readers.phantom:PhantomClear",
        "phantom_dim": "gkd_bench.data.readers.phantom:PhantomDim",
        "phantom_warm": "gkd_bench.data.readers.phantom:PhantomWarm",
    },
)

NETWORKS = Registry(
    "network",
    {
        "fanet": "gkd_bench.networks.fanet:FANet",
        "unet": "gkd_bench.networks.unet:UNet",
        "mobile_unet": "gkd_bench.networks.mobile_unet:MobileUNet",
        "enet": "gkd_bench.networks.enet:ENet",
        "erfnet": "gkd_bench.networks.erfnet:ERFNet",
    },
)

METHODS = Registry(
    "method",
    {
        "scratch": "gkd_bench.distillation.scratch:Scratch",
        "kd": "gkd_bench.distillation.kd:KnowledgeDistillation",
        "gkd": "gkd_bench.distillation.gkd:GeneralizableDistillation",
    },
)
