"""The closed lists of what a sweep file may name, as lazy import paths: reading this module imports nothing heavy.

A new data set, network or method is one new file and one line here; the conformance tests run over these lists. Networks
of other installed packages join through the entry-point group ``gkd_bench.networks``; see docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gkd_bench.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Registry(Mapping[str, str]):
    """Names of one kind, each with the import path ``module:attribute`` of what it stands for.

    Other installed packages may add names through entry points. Their metadata are read when the first name is asked
    for that is not built in; none of their code is imported before :meth:`load`. A built-in name always stands for the
    built-in thing.

    Args:
        kind: what the names name, for messages.
        entries: the built-in names.
        group: entry-point group of other packages' names; "" for none.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], group: str = "") -> None:
        self.kind = kind
        self.group = group
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name] if name in self._entries else self._offer(name).value

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self._offers

    def __iter__(self) -> Iterator[str]:
        yield from self._entries
        yield from sorted(self._offers.keys() - self._entries.keys())

    def __len__(self) -> int:
        return len(self._entries.keys() | self._offers.keys())

    def load(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Raises:
            KeyError: unknown name.
            ConfigError: two packages offer it, or the one that does cannot be imported.
        """
        if name not in self._entries:
            return self._import_offer(name)
        module, _, attribute = self._entries[name].partition(":")
        return getattr(import_module(module), attribute)

    def is_built_in(self, name: str) -> bool:
        """Whether the name comes with this package; looks at nothing that is installed."""
        return name in self._entries

    def provider(self, name: str) -> str:
        """``distribution==version`` of the package that offers a name; "" for a built-in one.

        Belongs to the key of whatever is trained, so that a new version of the package is trained anew.

        Raises:
            KeyError: unknown name.
            ConfigError: several packages offer the name, one of which may be this one.
        """
        if name not in self._entries:
            return _distribution(self._offer(name))
        if name in self._offers:
            raise self._clash(name)
        return ""

    @cached_property
    def _offers(self) -> dict[str, list[EntryPoint]]:
        if not self.group:
            return {}
        from importlib.metadata import entry_points

        offers: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            offers.setdefault(point.name, []).append(point)
        return offers

    def _offer(self, name: str) -> EntryPoint:
        if len(self._offers[name]) > 1:
            raise self._clash(name)
        return self._offers[name][0]

    def _import_offer(self, name: str) -> Any:
        offer = self._offer(name)
        try:
            return offer.load()
        except Exception as error:
            who = f"{self.kind} {name!r} of {_distribution(offer)}"
            raise ConfigError(
                [f"{who}: cannot import {offer.value}: {type(error).__name__}: {error}; mend or remove that package"]
            ) from error

    def _clash(self, name: str) -> ConfigError:
        owners = [_distribution(offer) for offer in self._offers[name]]
        if name in self._entries:
            owners.insert(0, "gkd-bench itself")
        text = (
            f"{self.kind} {name!r} is offered by {' and by '.join(owners)}; rename it in its entry point, or remove one"
        )
        return ConfigError([text])


def _distribution(offer: EntryPoint) -> str:
    return f"{offer.dist.name}=={offer.dist.version}" if offer.dist else "an unknown package"


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
        "chaos_ct": "gkd_bench.data.readers.chaos:ChaosCt",
        "chaos_mr": "gkd_bench.data.readers.chaos:ChaosMr",
        "chaos_mr_t1_out": "gkd_bench.data.readers.chaos:ChaosMrT1Out",
        "chaos_mr_t2": "gkd_bench.data.readers.chaos:ChaosMrT2",
        "lits": "gkd_bench.data.readers.lits:Lits",
        "ircadb": "gkd_bench.data.readers.ircadb:Ircadb",
        "lits_slices": "gkd_bench.data.readers.slices:LitsSlices",
        "chaos_ct_slices": "gkd_bench.data.readers.slices:ChaosCtSlices",
        "chaos_mr_slices": "gkd_bench.data.readers.slices:ChaosMrSlices",
        "chaos_mr_volumes": "gkd_bench.data.readers.chaos:ChaosMrVolumes",
        "phantom_ct": "gkd_bench.data.readers.phantom_volumes:PhantomCt",
        "phantom_mr": "gkd_bench.data.readers.phantom_volumes:PhantomMr",
    },
    group="gkd_bench.domains",
)

DOMAIN_CLASSES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("chase_db1", "stare", "drive", "hrf", "phantom_clear", "phantom_dim", "phantom_warm"), ("vessel",)
    ),
    **dict.fromkeys(
        ("chaos_ct", "lits", "ircadb", "lits_slices", "chaos_ct_slices", "chaos_mr_slices", "chaos_mr_volumes"),
        ("liver",),
    ),
    **dict.fromkeys(
        ("chaos_mr", "chaos_mr_t1_out", "chaos_mr_t2", "phantom_ct", "phantom_mr"),
        ("liver", "right_kidney", "left_kidney", "spleen"),
    ),
}
"""Classes of the built-in domains; kept here so that checking a file imports no reader. Held equal to the cards by a test."""

NETWORKS = Registry(
    "network",
    {
        "fanet": "gkd_bench.networks.fanet:FANet",
        "unet": "gkd_bench.networks.unet:UNet",
        "mobile_unet": "gkd_bench.networks.mobile_unet:MobileUNet",
        "enet": "gkd_bench.networks.enet:ENet",
        "erfnet": "gkd_bench.networks.erfnet:ERFNet",
        "m2unet": "gkd_bench.networks.m2unet:M2UNet",
        "little_unet": "gkd_bench.networks.little_unet:LittleUNet",
        "resenc_unet": "gkd_bench.networks.resenc_unet:ResEncUNet",
    },
    group="gkd_bench.networks",
)

METHODS = Registry(
    "method",
    {
        "scratch": "gkd_bench.distillation.scratch:Scratch",
        "bn_views": "gkd_bench.distillation.bn_views:BatchNormViews",
        "kd": "gkd_bench.distillation.kd:KnowledgeDistillation",
        "fitnet": "gkd_bench.distillation.fitnet:FitNet",
        "at": "gkd_bench.distillation.at:AttentionTransfer",
        "fsp": "gkd_bench.distillation.fsp:FlowOfSolution",
        "skd": "gkd_bench.distillation.skd:StructuredDistillation",
        "ifvd": "gkd_bench.distillation.ifvd:IntraClassVariation",
        "cwd": "gkd_bench.distillation.cwd:ChannelWise",
        "dsd": "gkd_bench.distillation.dsd:DoubleSimilarity",
        "cirkd": "gkd_bench.distillation.cirkd:CrossImageRelations",
        "coco": "gkd_bench.distillation.coco:CoCoDistillNet",
        "graph_flow": "gkd_bench.distillation.graph_flow:GraphFlow",
        "emkd": "gkd_bench.distillation.emkd:EfficientMedical",
        "xded": "gkd_bench.distillation.xded:CrossDomainEnsemble",
        "ccdistill": "gkd_bench.distillation.ccdistill:ContentCorrelation",
        "diga": "gkd_bench.distillation.diga:SymmetricWarmUp",
        "gkd": "gkd_bench.distillation.gkd:GeneralizableDistillation",
    },
)
