from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_bench.config.load import LoadedSweep, load_sweep, with_parameters
from gkd_bench.config.overlay import merge
from gkd_bench.config.schema import GkdOptions, Range, Stages
from gkd_bench.errors import ConfigError

Load = Callable[..., LoadedSweep]


def test_minimal_file_gets_every_default(load: Load) -> None:
    sweep = load().sweep
    assert sweep.stages == Stages()
    assert sweep.methods.gkd == GkdOptions()
    assert sweep.seeds == (0, 1, 2)


def test_text_profile_and_overrides_are_kept_for_the_record(write: Callable[[str], Path]) -> None:
    text = "name: a  # a comment\ndata: {domains: [phantom_dim]}\nprofiles: {small: {seeds: [4]}}\n"
    loaded = load_sweep(write(text), "small", ["augment.flips=false"])
    assert (loaded.text, loaded.profile, loaded.overrides) == (text, "small", ("augment.flips=false",))
    assert loaded.path.name == "sweep.yaml"


def test_precedence_is_preset_then_file_then_profile_then_set(load: Load) -> None:
    blocks = {
        "preset": "paper_like",
        "methods": {"gkd": {"inter": 0.2, "cross": 0.2, "graph_temperature": 0.2}},
        "profiles": {"small": {"methods": {"gkd": {"cross": 0.3, "graph_temperature": 0.3}}}},
    }
    gkd = load("methods.gkd.graph_temperature=0.4", profile="small", **blocks).sweep.methods.gkd
    assert gkd is not None
    assert (gkd.intra, gkd.inter, gkd.cross, gkd.graph_temperature) == (1.0, 0.2, 0.3, 0.4)


def test_profile_merges_blocks_and_replaces_lists(load: Load) -> None:
    blocks = {
        "networks": {"teacher": {"name": "unet", "width": 0.5}},
        "seeds": [1, 2, 3],
        "profiles": {"small": {"networks": {"teacher": {"width": 0.1}}, "seeds": [7]}},
    }
    sweep = load(profile="small", **blocks).sweep
    assert (sweep.networks.teacher.name, sweep.networks.teacher.width) == ("unet", 0.1)
    assert sweep.seeds == (7,)
    assert load(**blocks).sweep.seeds == (1, 2, 3)


def test_profile_replaces_a_search_distribution_as_a_whole(load: Load) -> None:
    space = {"gkd": {"methods.gkd.intra": {"low": 0.1, "high": 1.0, "log": True}}}
    other = {"gkd": {"methods.gkd.intra": {"choice": [0.1, 0.2]}}}
    blocks = {"search": {"spaces": space}, "profiles": {"few": {"search": {"spaces": other}}}}
    assert load(profile="few", **blocks).sweep.search.spaces["gkd"]["methods.gkd.intra"].model_dump() == {
        "choice": (0.1, 0.2)
    }


def test_empty_block_asks_for_defaults_and_null_for_none(write: Callable[[str], Path]) -> None:
    head = "name: a\ndata: {domains: [phantom_dim]}\nmethods:\n  kd:\n  gkd: "
    head = head.replace("methods:", "methods:\n  controls: []")
    chosen = load_sweep(write(f"{head}\n")).sweep.methods.chosen()
    assert set(chosen) == {"scratch", "kd", "gkd"}
    assert set(load_sweep(write(f"{head}null\n")).sweep.methods.chosen()) == {"scratch", "kd"}


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("stages.teacher.optimiser.lr=1e-4", lambda s: s.stages.teacher.optimiser.lr == 1e-4),
        ("seeds=[5, 6]", lambda s: s.seeds == (5, 6)),
        ("compute.pools.0.cpus=2", lambda s: s.compute.pools[0].cpus == 2),
        ("methods.kd={}", lambda s: s.methods.kd is not None),
        ("methods.kd=", lambda s: s.methods.kd is not None),
        ("methods.gkd=null", lambda s: s.methods.gkd is None),
        ("methods.kd.weight=2", lambda s: s.methods.kd.weight == 2.0),
        ("data.prepare.clahe=null", lambda s: s.data.prepare.clahe is None),
        ("pairs.sources=[phantom_dim]", lambda s: s.sources() == ("phantom_dim",)),
        (
            "search.spaces.gkd.methods.gkd.intra={low: 0.1, high: 0.2}",
            lambda s: s.search.spaces["gkd"]["methods.gkd.intra"] == Range(low=0.1, high=0.2),
        ),
        ("tracking.experiment=a=b", lambda s: s.tracking.experiment == "a=b"),
    ],
)
def test_set_changes_one_setting(load: Load, override: str, read: Callable[[object], bool]) -> None:
    assert read(load(override).sweep)


def test_set_changes_one_end_of_a_search_range(load: Load) -> None:
    search = {"spaces": {"gkd": {"methods.gkd.intra": {"low": 0.1, "high": 1.0}}}}
    sweep = load("search.spaces.gkd.methods.gkd.intra.high=0.5", search=search).sweep
    assert sweep.search.spaces["gkd"]["methods.gkd.intra"] == Range(low=0.1, high=0.5)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seeds", "must have the form"),
        ("=3", "must have the form"),
        ("seeds=[1", "not valid YAML"),
        ("compute.pools.4.cpus=2", "compute.pools is a list of 1; choose an item from 0 to 0, not 4"),
        ("compute.pools.first.cpus=2", "choose an item from 0 to 0, not 'first'"),
        ("name.first=x", "name is not a block"),
        ("data.0=x", "data is not a list"),
        ("stages.techer.epochs=1", "did you mean 'teacher'"),
    ],
)
def test_wrong_set_is_explained(problems: Callable[..., tuple[str, ...]], override: str, words: str) -> None:
    (line,) = problems(override)
    assert words in line
    assert "--set" in line


def test_variables_are_expanded_in_paths_only(load: Load) -> None:
    sweep = load(
        data={"domains": ["hrf"], "root": "${ROOT}/sets"},
        storage={"root": "${STORE:-/var/store}", "results": "s3://${BUCKET}/results"},
        tracking={"experiment": "${ROOT}"},
        env={"ROOT": "/mnt", "BUCKET": "b"},
    ).sweep
    assert sweep.data.root == "/mnt/sets"
    assert (sweep.storage.root, sweep.storage.results) == ("/var/store", "s3://b/results")
    assert sweep.tracking.experiment == "${ROOT}"


def test_empty_variable_counts_as_unset(problems: Callable[..., tuple[str, ...]], load: Load) -> None:
    data = {"domains": ["hrf"], "root": "${ROOT}"}
    (line,) = problems(data=data, env={"ROOT": ""})
    assert line.startswith("data.root: '${ROOT}' needs the environment variable ROOT, which is not set")
    assert load(data={"domains": ["hrf"], "root": "${ROOT:-/x}"}, env={"ROOT": ""}).sweep.data.root == "/x"


def test_phantoms_need_no_data_root(load: Load) -> None:
    assert load(data={"domains": ["phantom_dim"], "root": "${ROOT}"}).sweep.data.root is None


def test_relative_paths_are_made_absolute_from_the_current_folder(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = {"storage": {"root": "a/../store"}, "tracking": {"uri": "sqlite:///x.db"}}
    sweep = load(data={"domains": ["hrf"], "root": "sets"}, **blocks).sweep
    assert sweep.data.root == str(tmp_path / "sets")
    assert sweep.storage.root == str(tmp_path / "store")
    assert sweep.storage.results == str(tmp_path / "results")
    assert sweep.tracking.uri == f"sqlite:///{tmp_path}/x.db"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:////abs/x.db", "postgresql://u@h/db"])
def test_tracking_addresses_stay_as_they_are(load: Load, uri: str) -> None:
    assert load(tracking={"uri": uri}).sweep.tracking.uri == uri


def test_trial_parameters_give_a_checked_sweep(load: Load) -> None:
    sweep = load().sweep
    trial = with_parameters(sweep, {"methods.gkd.intra": 0.37, "stages.alignment.weights.sem": 2})
    assert trial.methods.gkd is not None
    assert trial.methods.gkd.intra == 0.37
    assert trial.stages.alignment.weights.sem == 2.0
    assert trial == with_parameters(trial, {})
    assert sweep.methods.gkd is not None
    assert sweep.methods.gkd.intra == 0.1


def test_trial_parameters_do_not_bring_a_preset_back(load: Load) -> None:
    sweep = load("methods.gkd.cross=0.9", preset="paper_like").sweep
    trial = with_parameters(sweep, {"methods.gkd.intra": 0.5})
    assert trial.methods.gkd is not None
    assert (trial.methods.gkd.cross, trial.methods.gkd.inter) == (0.9, 1.0)


def test_wrong_trial_parameters_are_all_reported(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        with_parameters(load().sweep, {"methods.gkd.intra": -1, "methods.gkd.crosss": 1, "methods.kd.weight": 1})
    assert caught.value.problems == (
        "methods.kd.weight: does not exist in this sweep",
        "methods.gkd.intra: must be at least 0, found -1",
        "methods.gkd.crosss: unknown key; allowed: " + ", ".join(GkdOptions.model_fields) + "; did you mean 'cross'?",
    )


def test_sweep_is_frozen(load: Load) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().sweep.seeds = (1,)


_TREES = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_BLOCKS = st.dictionaries(st.sampled_from("abc"), _TREES, max_size=3)


@given(_BLOCKS, _BLOCKS, _BLOCKS)
def test_merging_is_associative_and_idempotent(one: dict, two: dict, three: dict) -> None:
    assert merge(one, one) == one
    assert merge({}, one) == one
    assert merge(merge(one, two), two) == merge(one, two)
    if _same_shape(one, two) and _same_shape(two, three) and _same_shape(one, three):
        assert merge(merge(one, two), three) == merge(one, merge(two, three))


def _same_shape(one: dict, two: dict) -> bool:
    """Whether no key is a block on one side and a value on the other."""
    return all(
        isinstance(one[key], dict) == isinstance(two[key], dict)
        and (not isinstance(one[key], dict) or _same_shape(one[key], two[key]))
        for key in one.keys() & two.keys()
    )


@given(_BLOCKS, _BLOCKS)
def test_merging_leaves_its_inputs_alone(one: dict, two: dict) -> None:
    before = repr((one, two))
    merge(one, two)
    assert repr((one, two)) == before
