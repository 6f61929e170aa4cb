"""Networks of other packages, found through entry points: packages are made up in a folder on the import path."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch

from gkd_bench.errors import ConfigError
from gkd_bench.networks import build as building
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.registry import NETWORKS, Registry

GROUP = "gkd_bench.networks"
BUILT_IN = {"unet": "gkd_bench.networks.unet:UNet"}
GOOD = """
from gkd_bench.networks.little_unet import LittleUNet

class Mine(LittleUNet):
    pass
"""

Install = Callable[..., str]


@pytest.fixture
def install(offer: Install) -> Install:
    """Make up an installed distribution with one module; returns the module's name."""
    return lambda code, dist="my-net", **entry: offer(code, group=GROUP, dist=dist, **entry)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry that has not looked for entry points yet, in the place of the real one."""
    fresh = Registry("network", BUILT_IN, GROUP)
    monkeypatch.setattr(building, "NETWORKS", fresh)
    return fresh


def test_offered_name_is_listed_after_the_built_in_ones(install: Install, registry: Registry) -> None:
    module = install(GOOD)
    assert list(registry) == ["unet", "mine"] and len(registry) == 2
    assert "mine" in registry and "yours" not in registry
    assert registry["mine"] == f"{module}:Mine"


def test_nothing_is_imported_before_the_network_is_made(install: Install, registry: Registry) -> None:
    module = install(GOOD)
    assert list(registry) and registry.provider("mine") and "mine" in registry
    assert module not in sys.modules
    assert isinstance(building.build("mine", width=0.5, seed=0), SegmentationNetwork)
    assert module in sys.modules


def test_provider_names_distribution_and_version(install: Install, registry: Registry) -> None:
    install(GOOD, version="1.2.post3")
    assert registry.provider("mine") == "my-net==1.2.post3"
    assert registry.provider("unet") == ""


def test_unknown_names_are_key_errors_and_build_lists_offered_ones(install: Install, registry: Registry) -> None:
    install(GOOD)
    for ask in (registry.__getitem__, registry.provider, registry.load):
        with pytest.raises(KeyError):
            ask("resnet")
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        building.build("mime")
    with pytest.raises(ConfigError, match="use one of unet, mine"):
        building.build("swin_transformer")


def test_offered_network_is_seeded_like_any_other(install: Install, registry: Registry) -> None:
    install(GOOD)
    state = torch.get_rng_state()
    first, again = (building.build("mine", width=0.5, seed=3).state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_name_of_two_packages_is_an_error_that_names_both(install: Install, registry: Registry) -> None:
    install(GOOD, dist="one-net")
    install(GOOD, dist="other-net", version="2.0")
    assert "mine" in registry
    for ask in (registry.__getitem__, registry.provider, registry.load, building.build):
        with pytest.raises(ConfigError, match=r"network 'mine' is offered by .*rename") as caught:
            ask("mine")
        assert "one-net==1.2" in str(caught.value) and "other-net==2.0" in str(caught.value)


def test_built_in_name_wins_and_asking_who_provides_it_tells_of_the_clash(install: Install, registry: Registry) -> None:
    install(GOOD, entry="unet")
    assert list(registry) == ["unet"] and len(registry) == 1
    assert registry.load("unet").__module__ == "gkd_bench.networks.unet"
    with pytest.raises(ConfigError, match=r"'unet' is offered by gkd-bench itself and by my-net==1\.2"):
        registry.provider("unet")


FAULTS = {
    "import gkd_bench_extras_that_nobody_has": "cannot import .*ModuleNotFoundError",
    "": "cannot import .*AttributeError",
    "def Mine(**sizes): ...": "is no subclass of gkd_bench.networks.base.SegmentationNetwork",
    "class Mine: ...": "is no subclass of gkd_bench.networks.base.SegmentationNetwork",
    "from gkd_bench.networks.base import SegmentationNetwork as Mine": "cannot be made with width=0.5.*abstract",
    f"{GOOD}    stride = 8": r"the bottleneck of images .* must be \(3, 16, 3, 3\), found \(3, 16, 6, 6\)",
    f"{GOOD}    stride = 'four'": "stride must be a whole number above 0, found 'four'",
}


@pytest.mark.parametrize("code", FAULTS)
def test_network_that_cannot_be_used_is_one_clear_error(code: str, install: Install, registry: Registry) -> None:
    install(code)
    with pytest.raises(ConfigError, match=FAULTS[code]) as caught:
        building.build("mine", width=0.5)
    assert all(problem.startswith("network 'mine' of my-net==1.2") for problem in caught.value.problems)


def test_the_real_registry_looks_into_the_documented_group() -> None:
    assert NETWORKS.group == GROUP
    assert all(NETWORKS.is_built_in(name) == (NETWORKS.provider(name) == "") for name in NETWORKS)
