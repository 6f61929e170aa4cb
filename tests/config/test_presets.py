from __future__ import annotations

from collections.abc import Callable

from gkd_bench.config.load import LoadedSweep

Load = Callable[..., LoadedSweep]


def test_findings_are_the_defaults_of_the_schema(load: Load) -> None:
    assert load(preset="findings").sweep == load().sweep


def test_paper_like_follows_the_public_code(load: Load) -> None:
    sweep = load(preset="paper_like").sweep
    assert (sweep.networks.teacher.name, sweep.networks.student.name) == ("fanet", "mobile_unet")
    assert (sweep.networks.header.kind, sweep.networks.header.mixing) == ("shared_mlp", "when_needed")
    assert sweep.networks.header.dim == 512
    gkd = sweep.methods.gkd
    assert gkd is not None
    assert (gkd.intra, gkd.inter, gkd.cross) == (1.0, 1.0, 1.0)
    assert gkd.views == ("hflip", "vflip", "photometric", "noise_blur")
    for training in (sweep.stages.teacher, sweep.stages.baseline):
        assert (training.epochs, training.batch) == (250, 32)
        assert (training.optimiser.lr, training.optimiser.schedule) == (3e-3, "step")


def test_paper_like_starts_the_warm_student_low(load: Load) -> None:
    stages = load(preset="paper_like").sweep.stages
    assert stages.distill.student_init == "baseline"
    assert (stages.distill.optimiser.lr, stages.distill.optimiser.schedule) == (3e-4, "step")
    assert (stages.distill.optimiser.name, stages.distill.batch) == ("adam", 32)
    assert stages.alignment.patience == 0


def test_preset_does_not_choose_a_method_that_the_file_leaves_out(load: Load) -> None:
    chosen = load(preset="paper_like", methods={"kd": {}, "controls": []}).sweep.methods.chosen()
    assert set(chosen) == {"scratch", "kd"}
    assert load(preset="paper_like").sweep.methods.kd is None
    assert load(preset="paper_like", methods={"gkd": None}).sweep.methods.gkd is None


def test_file_wins_over_its_preset(load: Load) -> None:
    sweep = load(preset="paper_like", networks={"header": {"kind": "flat"}}).sweep
    assert sweep.networks.header.kind == "flat"
    assert sweep.networks.header.mixing == "when_needed"


def test_preset_may_come_from_a_profile_or_the_command_line(load: Load) -> None:
    assert load("preset=paper_like").sweep.networks.header.kind == "shared_mlp"
    profiled = load(profile="paper", profiles={"paper": {"preset": "paper_like"}}).sweep
    assert profiled.networks.header.kind == "shared_mlp"


def test_presets_are_not_changed_by_loading(load: Load) -> None:
    load("methods.gkd.intra=0.5", "methods.gkd.views=[hflip]", preset="paper_like")
    gkd = load(preset="paper_like").sweep.methods.gkd
    assert gkd is not None
    assert (gkd.intra, len(gkd.views)) == (1.0, 4)
