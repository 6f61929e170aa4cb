from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gkd_bench.config.checks import STRIDES
from gkd_bench.config.load import LoadedSweep, load_sweep
from gkd_bench.config.problems import known_keys, leaves
from gkd_bench.errors import ConfigError
from gkd_bench.registry import NETWORKS

Problems = Callable[..., tuple[str, ...]]

FOUR_GPUS = {"compute": {"pools": [{"workers": 4, "gpus": 1}]}}


def space(distribution: object, name: str = "methods.gkd.intra", method: str = "gkd", **search: object) -> dict:
    return {"search": {"spaces": {method: {name: distribution}}, **search}}


MISTAKES: dict[str, tuple[dict, str]] = {
    "wrong type": ({"seeds": ["a"]}, "seeds.0: must be a whole number, found 'a'"),
    "fraction where a whole number is needed": (
        {"stages": {"teacher": {"epochs": 2.5}}},
        "stages.teacher.epochs: must be a whole number, found 2.5",
    ),
    "word where a switch is needed": (
        {"augment": {"flips": "yes"}},
        "augment.flips: must be true or false, found 'yes'",
    ),
    "switch where a number is needed": (
        {"stages": {"distill": {"epochs": True}}},
        "stages.distill.epochs: must be a whole number, found true",
    ),
    "list where a block is needed": (
        {"networks": []},
        "networks: must be a block with teacher, student, semantic_width",
    ),
    "nothing where text is needed": (
        {"tracking": {"experiment": {}}},
        "experiment: must be text, found an empty value",
    ),
    "unknown key": (
        {"stages": {"teacher": {"epoch": 3}}},
        "stages.teacher.epoch: unknown key; allowed: epochs, epoch_steps, batch, ",
    ),
    "unknown block": ({"network": {}}, "network: unknown key; allowed: name, task, "),
    "misspelt network": (
        {"networks": {"student": {"name": "mobil_unet"}}},
        "networks.student.name: 'mobil_unet' is not a network; allowed: fanet, unet, mobile_unet, enet, erfnet, m2unet, little_unet, resenc_unet; "
        "did you mean 'mobile_unet'?",
    ),
    "misspelt domain": (
        {"data": {"domains": ["phantom_claer"]}},
        "data.domains.0: 'phantom_claer' is not a domain; allowed: chase_db1, stare, drive, hrf, phantom_clear, "
        "phantom_dim, phantom_warm, chaos_ct, chaos_mr, chaos_mr_t1_out, chaos_mr_t2, lits, ircadb, lits_slices, "
        "chaos_ct_slices, chaos_mr_slices, chaos_mr_volumes, phantom_ct, phantom_mr; did you mean 'phantom_clear'?",
    ),
    "misspelt method": (
        {"methods": {"gdk": {}}},
        "methods.gdk: unknown key; allowed: scratch, bn_views, kd, fitnet, at, fsp, skd, ifvd, cwd, dsd, cirkd, coco, graph_flow, emkd, xded, ccdistill, diga, gkd, controls, variants; did you mean 'gkd'?",
    ),
    "misspelt enum value": (
        {"search": {"sampler": "tpa"}},
        "search.sampler: must be 'tpe', 'random' or 'grid', found 'tpa'; did you mean 'tpe'?",
    ),
    "unknown preset": ({"preset": "paper"}, "preset: must be 'findings' or 'paper_like', found 'paper'; did you mean"),
    "views of one view": (
        {"methods": {"gkd": {"views": ["hflip"], "inter_scope": "views"}}},
        "methods.gkd.inter_scope: 'views' compares the views of one sample and needs at least 2",
    ),
    "views of one view in a trial": (
        space({"choice": ["batch", "views"]}, "methods.gkd.inter_scope", trials=2)
        | {"methods": {"gkd": {"views": ["hflip"]}}},
        "methods.gkd.inter_scope: 'views' compares the views of one sample and needs at least 2",
    ),
    "gkd without a weight": (
        {"methods": {"gkd": {"intra": 0, "inter": 0.0, "cross": 0}}},
        "methods.gkd: with intra, inter and cross all 0 it is 'scratch'",
    ),
    "gkd without a weight in a trial": (
        space({"choice": [0, 0.1]}, trials=2) | {"methods": {"gkd": {"inter": 0, "cross": 0}}},
        "methods.gkd: with intra, inter and cross all 0 it is 'scratch'",
    ),
    "gkd without a weight at a point of the grid": (
        space({"low": 0, "high": 1}, trials=3, sampler="grid") | {"methods": {"gkd": {"inter": 0, "cross": 0}}},
        "methods.gkd: with intra, inter and cross all 0 it is 'scratch'",
    ),
    "alignment without a weight": (
        {"stages": {"alignment": {"weights": dict.fromkeys(("align", "rec", "con", "sem", "view"), 0)}}},
        "stages.alignment.weights: are all 0, so the alignment networks of 'gkd' learn nothing",
    ),
    "unknown stage kind": (
        {"compute": {"pools": [{"stages": ["techer"]}]}},
        "compute.pools.0.stages.0: must be 'teacher', 'baseline', 'semantic', 'alignment', 'distill', 'stress', 'evaluate' "
        "or 'efficiency', found 'techer'; did you mean 'teacher'?",
    ),
    "negative weight": ({"methods": {"gkd": {"cross": -1}}}, "methods.gkd.cross: must be at least 0, found -1"),
    "share above one": (
        {"stages": {"evaluate": {"threshold": 2}}},
        "stages.evaluate.threshold: must be at most 1, found 2",
    ),
    "overlap of one": (
        {"stages": {"evaluate": {"overlap": 1.0}}},
        "stages.evaluate.overlap: must be less than 1, found 1.0",
    ),
    "zero learning rate": (
        {"stages": {"teacher": {"optimiser": {"lr": 0}}}},
        "stages.teacher.optimiser.lr: must be greater than 0, found 0",
    ),
    "not a number": (
        {"methods": {"kd": {"weight": float("nan")}}},
        "methods.kd.weight: must be a finite number, found nan",
    ),
    "tile not a multiple of 16": (
        {"data": {"domains": ["phantom_dim"], "tile": 100}},
        "data.tile: must be a multiple of 16, found 100",
    ),
    "tile too coarse for the student": (
        {"data": {"domains": ["phantom_dim"], "tile": 80}},
        "data.tile: must be a multiple of 32 for student 'mobile_unet' (one bottleneck position per 32 pixels), found 80",
    ),
    "missing domains": ({"data": {}}, "data.domains: is missing and has no default"),
    "no domains": ({"data": {"domains": []}}, "data.domains: must have at least 1 item, found []"),
    "domain twice": (
        {"data": {"domains": ["phantom_dim", "phantom_dim"]}},
        "'phantom_dim' is listed 2 times; once is enough",
    ),
    "source none": ({"pairs": {"sources": "none"}}, "pairs.sources: must be 'all' or a list, found 'none'"),
    "source null": ({"pairs": {"sources": None}}, "pairs.sources: must be 'all' or a list, found null"),
    "no sources": (
        {"pairs": {"sources": []}},
        "pairs.sources: is empty, so there is no source; write 'all' or name at least",
    ),
    "no targets": (
        {"pairs": {"targets": []}},
        "pairs.targets: is empty, so there is no target; write 'all' or name at least",
    ),
    "source not in domains": (
        {"pairs": {"sources": ["phantom_dimm"]}},
        "pairs.sources.0: 'phantom_dimm' is not in data.domains (phantom_clear, phantom_dim); did you mean 'phantom_dim'?",
    ),
    "target not in domains": (
        {"pairs": {"targets": ["stare"]}},
        "pairs.targets.0: 'stare' is not in data.domains (phantom_",
    ),
    "source twice": ({"pairs": {"sources": ["phantom_dim"] * 2}}, "pairs.sources: 'phantom_dim' is listed 2 times"),
    "seed twice": ({"seeds": [1, 1, 2]}, "seeds: 1 is listed 2 times; once is enough"),
    "negative seed": ({"seeds": [-1]}, "seeds.0: must be at least 0, found -1"),
    "everyone of a source": (
        {"pairs": {"everyone": ["phantom_dim"]}},
        "pairs.everyone.0: 'phantom_dim' is a source, so its training subjects cannot be scored; leave it out here",
    ),
    "everyone of what is no target": (
        {"pairs": {"sources": ["phantom_dim"], "targets": ["phantom_dim"], "everyone": ["phantom_clear"]}},
        "pairs.everyone.0: 'phantom_clear' is not a target",
    ),
    "no classes": (
        {"task": "segmentation"},
        "data.classes: is missing; task 'segmentation' needs the names of the foreground classes",
    ),
    "class that a domain does not have": (
        {"task": "liver", "data": {"domains": ["phantom_ct", "phantom_clear"]}},
        "data.domains.1: 'phantom_clear' has no class liver; its labels tell apart: vessel",
    ),
    "class twice": (
        {"task": "liver", "data": {"domains": ["phantom_ct"], "classes": ["liver", "liver"]}},
        "data.classes: 'liver' is listed 2 times; once is enough",
    ),
    "class that is no name": (
        {"data": {"domains": ["phantom_dim"], "classes": ["left kidney"]}},
        "data.classes.0: may only have letters, digits and '_', a letter first, found 'left kidney'",
    ),
    "colour beside slices": (
        {"task": "liver", "data": {"domains": ["phantom_ct"], "prepare": {"channel": "rgb"}}},
        "data.domains.0: 'phantom_ct' has grey slices, but data.prepare.channel 'rgb' makes networks take three channels",
    ),
    "folder that is not used": (
        {"data": {"domains": ["phantom_dim"], "folders": {"clinic": {"path": "/clinic"}}}},
        "data.folders.clinic: is not used; add it to data.domains, or leave it out",
    ),
    "folder with a built-in name": (
        {"data": {"domains": ["phantom_dim", "stare"], "root": "/sets", "folders": {"stare": {"path": "eyes"}}}},
        "data.folders.stare: 'stare' is a domain of its own already; choose another name",
    ),
    "folder below no root": (
        {"data": {"domains": ["phantom_dim", "clinic"], "folders": {"clinic": {"path": "eyes"}}}},
        "data.folders.clinic.path: 'eyes' lies below data.root, which is missing",
    ),
    "folder that lacks a class": (
        {
            "data": {
                "domains": ["phantom_dim", "clinic"],
                "folders": {"clinic": {"path": "/eyes", "levels": {"background": [0], "disc": [255]}}},
            }
        },
        "data.folders.clinic.levels: names no grey levels of vessel, which data.classes asks for",
    ),
    "pattern that leaves the folder": (
        {"data": {"domains": ["clinic"], "folders": {"clinic": {"path": "/eyes", "masks": "../{name}.png"}}}},
        "data.folders.clinic.masks: must stay below the folder, found '../{name}.png'",
    ),
    "window upside down": (
        {"data": {"domains": ["phantom_dim"], "volumes": {"window": {"low": 100, "high": 50}}}},
        "data.volumes.window: high must be above low, found 100 ... 50",
    ),
    "real domain without a folder": (
        {"data": {"domains": ["chase_db1", "phantom_dim"]}},
        "data.root: is missing, but chase_db1 must be read from a folder",
    ),
    "variable not set": (
        {"data": {"domains": ["hrf"], "root": "${GKD_DATA_ROOT}"}},
        "data.root: '${GKD_DATA_ROOT}' needs the environment variable GKD_DATA_ROOT, which is not set",
    ),
    "name with a slash": (
        {"name": "a/b"},
        "name: may only have letters, digits, '_', '-' and '.', a letter or digit first",
    ),
    "scale without a rule": (
        {"data": {"domains": ["phantom_dim"], "prepare": {"scale": {"rule": "none", "value": 3}}}},
        "data.prepare.scale: rule 'none' keeps native pixels and takes no value",
    ),
    "grid header of odd size": (
        {"networks": {"header": {"kind": "grid", "dim": 100}}},
        "networks.header.dim: must be a multiple of 16 for the 'grid' header (4 x 4 positions), found 100",
    ),
    "warm-up longer than training": (
        {"stages": {"distill": {"epochs": 2, "warmup_epochs": 3}}},
        "stages.distill.warmup_epochs: must be at most stages.distill.epochs (2), found 3",
    ),
    "cache smaller than a batch": (
        {"stages": {"alignment": {"cached_tiles": 8}}},
        "stages.alignment.cached_tiles: must be 0 or at least one batch (stages.alignment.batch is 32), found 8",
    ),
    "batch not shared evenly": (
        {"stages": {"teacher": {"batch": 2}}, **FOUR_GPUS},
        "stages.teacher.batch: is shared by the 4 workers of the pool that runs 'teacher' and must be a multiple of 4, found 2",
    ),
    "stage without a pool": (
        {"compute": {"pools": [{"stages": ["teacher", "baseline", "semantic", "alignment", "distill"]}]}},
        "compute: stage 'stress' must be served by exactly one pool, not 0",
    ),
    "variant of a method that is not there": (
        {"methods": {"variants": {"kd_hot": {"of": "kd", "set": {"temperature": 8.0}}}}},
        "variants.kd_hot.of: 'kd' is not a method of this sweep; allowed: scratch, bn_views",
    ),
    "variant with a misspelt option": (
        {"methods": {"gkd": {}, "variants": {"gkd_intra": {"of": "gkd", "set": {"intr": 0}}}}},
        "variants.gkd_intra.set.intr: Extra inputs are not permitted",
    ),
    "variant under a method's name": (
        {"methods": {"gkd": {}, "variants": {"teacher": {"of": "gkd", "set": {"intra": 0}}}}},
        "variants.teacher: the name is taken; choose another",
    ),
    "control's name for a variant": (
        {"methods": {"gkd": {}, "variants": {"kd_photometric": {"of": "gkd", "set": {"intra": 0}}}}},
        "variants.kd_photometric: the name is taken; choose another",
    ),
    "variant that changes nothing": (
        {"methods": {"gkd": {}, "variants": {"gkd_same": {"of": "gkd"}}}},
        "methods.variants.gkd_same: changes nothing; give set, alignment or student",
    ),
    "variant with a misspelt alignment setting": (
        {"methods": {"gkd": {}, "variants": {"gkd_less": {"of": "gkd", "alignment": {"weights": {"alin": 0}}}}}},
        "methods.variants.gkd_less.alignment.weights.alin: unknown key",
    ),
    "alignment for a method without it": (
        {"methods": {"kd": {}, "gkd": {}, "variants": {"kd_less": {"of": "kd", "alignment": {"trained": False}}}}},
        "methods.variants.kd_less.alignment: method 'kd' trains no alignment networks",
    ),
    "variant with a misspelt student": (
        {"methods": {"gkd": {}, "variants": {"gkd_small": {"of": "gkd", "student": {"name": "enets"}}}}},
        "methods.variants.gkd_small.student.name: 'enets' is not a network",
    ),
    "misspelt remedy": (
        {"methods": {"gkd": {"remedies": ["styl"]}}},
        "methods.gkd.remedies.0: must be 'photometric', 'style', 'swa' or 'bn_adapt', found 'styl'",
    ),
    "geometric views for a method that compares pixels": (
        {"methods": {"diga": {"views": ["strong", "vflip"]}}},
        "methods.diga.views: vflip moves pixels, and diga compares them one by one; use photometric, noise_blur, strong",
    ),
    "geometric views for a variant of it": (
        {"methods": {"xded": {}, "variants": {"xded_turned": {"of": "xded", "set": {"views": ["rot90"]}}}}},
        "methods.variants.xded_turned.set.views: rot90 moves pixels",
    ),
    "search of remedies": (
        {
            "methods": {"gkd": {}},
            "search": {"trials": 2, "spaces": {"gkd": {"methods.gkd.remedies": {"choice": ["style", "swa"]}}}},
        },
        "'methods.gkd.remedies' is not a setting that a search of 'gkd' may change",
    ),
    "oracle as the rule": (
        {"selection": {"rule": "oracle"}},
        "selection.rule: must be 'source_val', 'source_val_stressed' or 'last', found 'oracle'",
    ),
    "ideal point of one objective": (
        {"selection": {"pick": "closest_to_ideal"}},
        "selection.pick: 'closest_to_ideal' chooses from a Pareto front and needs at least 2 search.objectives",
    ),
    "objective given twice": (
        {"search": {"objectives": ["source_val", "source_val"]}},
        "search.objectives: 'source_val' is listed 2 times",
    ),
    "distance without alignment networks": (
        {"methods": {"kd": {}, "gkd": None}, "search": {"objectives": ["source_val", "stress_fsd"]}},
        "search.objectives: 'stress_fsd' needs alignment networks",
    ),
    "cost that no trial changes": (
        space({"low": 0.1, "high": 1.0}, objectives=["source_val", "student_macs"]),
        "search.objectives: 'student_macs' is the same in every trial of 'gkd'; search networks.student.width",
    ),
    "unknown network in a search": (
        space({"choice": ["enet", "enett"]}, name="networks.student.name"),
        "search.spaces.gkd.networks.student.name.choice.1: 'enett' is not a network",
    ),
    "network in a search that does not fit the tiles": (
        space({"choice": ["enet", "mobile_unet"]}, name="networks.student.name")
        | {"data": {"domains": ["phantom_clear"], "tile": 48}, "networks": {"student": {"name": "enet"}}},
        "'mobile_unet' needs tiles that are a multiple of 32 pixels, data.tile is 48",
    ),
    "two searches of the student": (
        {
            "methods": {"kd": {}, "gkd": {}},
            "search": {
                "spaces": {name: {"networks.student.width": {"low": 0.1, "high": 1.0}} for name in ("kd", "gkd")}
            },
        },
        "search.spaces: kd and gkd all search networks.student; the student a search takes is that of every method",
    ),
    "unknown corruption": (
        {"data": {"domains": ["phantom_clear"], "stress": {"corruptions": ["blurr"]}}},
        "data.stress.corruptions.0: must be 'gamma', 'contrast', 'colour_cast', 'blur', ",
    ),
    "strength beyond the bank": (
        {"data": {"domains": ["phantom_clear"], "stress": {"strengths": [4]}}},
        "data.stress.strengths.0: must be at most 3, found 4",
    ),
    "strength given twice": (
        {"data": {"domains": ["phantom_clear"], "stress": {"strengths": [1, 1]}}},
        "data.stress.strengths: 1 is listed 2 times",
    ),
    "GPU without Ray": (
        {"compute": {"engine": "inprocess", "pools": [{"gpus": 1}]}},
        "compute.pools.0.gpus: must be 0 with engine 'inprocess', found 1; engine 'ray' can use more",
    ),
    "half precision on a CPU": (
        {"compute": {"precision": "fp16"}},
        "compute.pools.0.gpus: must be above 0 with precision 'fp16'",
    ),
    "range upside down": (
        space({"low": 2, "high": 1}),
        "search.spaces.gkd.methods.gkd.intra: low (2.0) must be below high (1.0)",
    ),
    "logarithm of zero": (
        space({"low": 0, "high": 1, "log": True}),
        "a logarithmic range must start above 0, not at 0.0",
    ),
    "range with an unknown key": (
        space({"low": 0, "hi": 1, "high": 2}),
        "methods.gkd.intra.hi: unknown key; allowed: low, high",
    ),
    "range without an end": (
        space({"low": 0.1}),
        "search.spaces.gkd.methods.gkd.intra.high: is missing and has no default",
    ),
    "number where a distribution is needed": (
        space(0.3),
        "methods.gkd.intra: must be a block with low, high, log, points or a block with choice, found 0.3",
    ),
    "nothing to choose from": (space({"choice": []}), "methods.gkd.intra.choice: must have at least 1 item, found []"),
    "list as a choice": (
        space({"choice": [[1]]}),
        "choice.0: must be a number or a whole number or text or true or false",
    ),
    "range below the allowed": (
        space({"low": -1, "high": 1}),
        "search.spaces.gkd.methods.gkd.intra.low: methods.gkd.intra must be at least 0, found -1.0",
    ),
    "choice that is not allowed": (
        space({"choice": ["mse", "l1"]}, "methods.gkd.graph_loss"),
        "methods.gkd.graph_loss.choice.1: methods.gkd.graph_loss must be 'mse' or 'softmax_kl', found 'l1'",
    ),
    "search of an unknown setting": (
        space({"low": 0, "high": 1}, "methods.gkd.intr"),
        "'methods.gkd.intr' is not a setting that a search of 'gkd' may change; allowed: methods.gkd.intra, ",
    ),
    "search of a training setting": (
        space({"low": 1e-4, "high": 1e-2}, "stages.teacher.optimiser.lr"),
        "'stages.teacher.optimiser.lr' is not a setting that a search of 'gkd' may change",
    ),
    "search of another method's setting": (
        space({"low": 1, "high": 2}, "methods.kd.weight") | {"methods": {"kd": {}, "gkd": {}}},
        "'methods.kd.weight' is not a setting that a search of 'gkd' may change",
    ),
    "search of a method that is not chosen": (
        space({"low": 1, "high": 2}, "methods.kd.weight", "kd"),
        "search.spaces.kd: method 'kd' is not chosen; add a block methods.kd or leave its search space out",
    ),
    "search of an unknown method": (
        space({"low": 1, "high": 2}, "methods.gdk.intra", "gdk"),
        "search.spaces.gdk: 'gdk' is not a method; allowed: scratch, bn_views, kd, fitnet, at, fsp, skd, ifvd, cwd, dsd, cirkd, coco, graph_flow, emkd, xded, ccdistill, diga, gkd; did you mean 'gkd'?",
    ),
    "empty space": ({"search": {"spaces": {"gkd": {}}}}, "search.spaces.gkd: is empty; name at least one setting"),
    "trials of nothing": (
        {"search": {"trials": 4}},
        "search.trials: asks for 4 trials, but search.spaces names nothing",
    ),
    "grid larger than the trials": (
        space({"low": 0, "high": 1, "points": 9}, sampler="grid", trials=8),
        "search.trials: must be at least 9, the size of the grid of 'gkd', found 8",
    ),
    "grace longer than training": (
        space({"low": 0, "high": 1}, trials=4, grace_epochs=101),
        "search.grace_epochs: must be at most stages.distill.epochs (100), found 101",
    ),
    "more trials at once than groups": (
        space({"low": 0, "high": 1}, trials=4, concurrency=3),
        "search.concurrency: 3 trials cannot run at once on 1 worker group; raise groups or lower this",
    ),
    "profiles not a block": ({"profiles": ["small"]}, "profiles: must be a block of named profiles, found ['small']"),
    "profile not a block": ({"profiles": {"small": 3}}, "profiles.small: must be a block of settings, found 3"),
    "unknown key in a profile not chosen": (
        {"profiles": {"small": {"netwroks": {}}}},
        "profiles.small.netwroks: unknown key; allowed: name, task, ",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_gives_exactly_one_clear_line(problems: Problems, mistake: str) -> None:
    blocks, words = MISTAKES[mistake]
    lines = problems(**blocks)
    assert len(lines) == 1, lines
    assert words in lines[0]
    assert "\n" not in lines[0]


def test_all_mistakes_of_a_file_are_reported_at_once(write: Callable[[str], Path]) -> None:
    text = """\
name: many mistakes
data: {domains: [phantom_dim, phantom_worm], tile: 96}
pairs: {sources: [phantom_dmi]}
networks:
  teacher: {name: fanett}
stages:
  teacher: {epochs: -1, epoch: 3}
methods: {gkd: {intra: -0.1}}
search: {trials: 2, sampler: tpee}
seeds: [0, 0]
"""
    with pytest.raises(ConfigError) as caught:
        load_sweep(write(text))
    found = {line.split(":")[0]: line.rpartition("(")[2] for line in caught.value.problems}
    assert found == {
        "name": "line 1)",
        "data.domains.1": "line 2)",
        "pairs.sources.0": "line 3)",
        "networks.teacher.name": "line 5)",
        "stages.teacher.epochs": "line 7)",
        "stages.teacher.epoch": "line 7)",
        "methods.gkd.intra": "line 8)",
        "search.trials": "line 9)",
        "search.sampler": "line 9)",
        "seeds": "line 10)",
    }
    assert str(caught.value).startswith("10 problems in ")


def test_mistakes_in_the_same_blocks_do_not_hide_each_other(problems: Problems) -> None:
    lines = problems(
        data={"domains": [3, "phantom_worm", "phantom_dim"], "tile": 80},
        pairs={"targets": []},
        networks={"teacher": {"name": 3}, "student": {"name": "mobil_unet"}, "header": {"kind": "grid", "dim": 100}},
        stages={
            "teacher": {"batch": 7, "epochs": 0},
            "baseline": {"batch": "x"},
            "alignment": {"batch": 9, "weights": {"rec": -1}},
            "distill": {"warmup_epochs": 4, "epochs": 2, "batch": 0},
        },
        methods={"gkd": {"intra": -1, "views": ["hflip"], "inter_scope": "views"}},
        search={
            "trials": 4,
            "concurrency": 3,
            "grace_epochs": 5,
            "minutes": -1,
            "spaces": {
                "gkd": {
                    "methods.gkd.intr": {"low": 0, "high": 1},
                    "methods.gkd.inte": {"lo": 0, "high": 1},
                    "methods.gkd.cross": {"low": -1, "high": 1},
                },
                "gdk": {"methods.gkd.intra": 3},
                "kd": {"methods.kd.weight": {"low": 2, "high": 1}},
            },
        },
        compute={"precision": "fp16", "max_failures": -1, "pools": [{"workers": 2, "cpus": 0}]},
        seeds=["a", 0],
    )
    assert sorted(line.split(": ")[0] for line in lines) == [
        "compute.max_failures",
        "compute.pools.0.cpus",
        "compute.pools.0.gpus",
        "data.domains.0",
        "data.domains.1",
        "methods.gkd.inter_scope",
        "methods.gkd.intra",
        "networks.header.dim",
        "networks.student.name",
        "networks.teacher.name",
        "pairs.targets",
        "search.concurrency",
        "search.grace_epochs",
        "search.minutes",
        "search.spaces.gdk",
        "search.spaces.gdk.methods.gkd.intra",
        "search.spaces.gkd.methods.gkd.cross.low",
        "search.spaces.gkd.methods.gkd.inte",
        "search.spaces.gkd.methods.gkd.inte.lo",
        "search.spaces.gkd.methods.gkd.inte.low",
        "search.spaces.gkd.methods.gkd.intr",
        "search.spaces.kd",
        "search.spaces.kd.methods.kd.weight",
        "seeds.0",
        "stages.alignment.batch",
        "stages.alignment.weights.rec",
        "stages.baseline.batch",
        "stages.distill.batch",
        "stages.distill.warmup_epochs",
        "stages.teacher.batch",
        "stages.teacher.epochs",
    ]


def test_pools_that_miss_a_stage_do_not_hide_the_rest_of_their_block(problems: Problems) -> None:
    lines = problems(compute={"precision": "fp17", "pools": [{"stages": ["teacher"], "workers": 2, "cpus": 0}]})
    assert [line.split(": ")[0] for line in lines] == ["compute.pools.0.cpus", "compute.precision", "compute"]


@pytest.mark.parametrize(
    "blocks",
    [
        {"networks": {"student": {"name": 3}}, "data": {"domains": ["phantom_dim"], "tile": 80}},
        {"stages": {"distill": {"epochs": "few", "warmup_epochs": 900}}},
        {"stages": {"teacher": {"batch": 7}}, "compute": {"pools": [{"workers": "2"}]}},
        {"methods": {"gkd": 3}, **space({"low": 0, "high": 1})},
        {"methods": {"gkd": {"views": ["spin"], "inter_scope": "views"}}},
        {"methods": {"gkd": {"intra": "a", "inter": 0, "cross": 0}}},
        {"search": {"trials": 3, "spaces": 3}},
        space({"low": "a", "high": -1}),
        {"compute": {"engine": "inproces", "pools": [{"gpus": 1}]}},
        {"seeds": [0, "0"]},
    ],
)
def test_a_replaced_value_is_not_blamed(problems: Problems, blocks: dict) -> None:
    lines = problems(**blocks)
    assert len(lines) == 1, lines


def test_a_broken_value_causes_no_further_problems(problems: Problems) -> None:
    lines = problems(data={"domains": "phantom_dim"}, pairs={"sources": ["phantom_dim"]})
    assert lines == ("data.domains: must be a list, found 'phantom_dim' (line 3)",)


def test_problem_of_a_profile_names_the_profile_and_its_line(write: Callable[[str], Path]) -> None:
    text = "name: a\ndata: {domains: [phantom_dim]}\nprofiles:\n  small:\n    seeds: [a]\n"
    with pytest.raises(ConfigError) as chosen:
        load_sweep(write(text), "small")
    assert chosen.value.problems == ("seeds.0: must be a whole number, found 'a' (profile small, line 5)",)
    with pytest.raises(ConfigError) as not_chosen:
        load_sweep(write(text))
    assert not_chosen.value.problems == ("profiles.small.seeds.0: must be a whole number, found 'a' (line 5)",)


def test_unknown_profile_names_the_nearest(load: Callable[..., LoadedSweep]) -> None:
    with pytest.raises(ConfigError, match=r"no profile 'smal'; the file has small, tiny; did you mean 'small'\?"):
        load(profile="smal", profiles={"small": {}, "tiny": {}})
    with pytest.raises(ConfigError, match="the file has no profiles"):
        load(profile="small")


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such file; did you mean '.*quickstart\.yaml'\?"):
        load_sweep(tmp_path / "quikstart.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x80abc"])
def test_binary_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        load_sweep(path)


def test_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_sweep(tmp_path)


def test_yaml_mistake_gives_line_and_column(write: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(write("name: a\ndata: {domains: [a}\n"))
    (line,) = caught.value.problems
    assert line.startswith("line 2, column 19: not valid YAML")


def test_long_values_are_cut(problems: Problems) -> None:
    (line,) = problems(seeds="x" * 5000)
    assert len(line) < 150


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(path=st.sampled_from(leaves(())), value=_JSON)
def test_any_value_anywhere_is_accepted_or_reported_never_a_crash(path: str, value: object) -> None:
    from gkd_bench.config import load as module

    tree: dict = {"name": "a", "data": {"domains": ["phantom_dim"]}}
    *parents, last = path.split(".")
    block = tree
    for step in parents:
        block = block.setdefault(step, {})
    block[last] = value
    sweep, problems = module._examine(tree, [])
    assert (sweep is None) == bool(problems)
    for problem in problems:
        assert "\n" not in problem.text


def test_schema_paths_reach_through_lists_and_unions() -> None:
    assert "cpus" in known_keys(("compute", "pools", 0))
    assert known_keys(("search", "spaces", "gkd", "x")) == ["low", "high", "log", "points", "choice"]
    assert known_keys(("seeds",)) == []
    assert "stages.alignment.weights.sem" in leaves(("stages", "alignment"))


@pytest.mark.parametrize("name", NETWORKS)
def test_strides_agree_with_the_networks(name: str) -> None:
    pytest.importorskip("torch")
    assert NETWORKS.load(name)(width=0.25).stride == STRIDES[name]


def test_checking_a_file_imports_nothing_heavy_and_starts_nothing(write: Callable[[str], Path]) -> None:
    path = write("name: a\ndata: {domains: [phantom_dim]}\nseeds: [x]\n")
    code = f"""
import sys
from gkd_bench.config.load import load_sweep
from gkd_bench.errors import ConfigError
try:
    load_sweep({str(path)!r})
except ConfigError as error:
    assert len(error.problems) == 1
else:
    raise SystemExit("no error")
heavy = {{"ray", "torch", "mlflow", "numpy", "scipy", "pandas", "optuna", "cv2"}} & set(sys.modules)
raise SystemExit(f"imported {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
