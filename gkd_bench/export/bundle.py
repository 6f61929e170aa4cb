"""``gkd-bench export``, from top to bottom: choose, load, export, compare, describe, and only then put it where it was asked for."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from gkd_bench import __version__
from gkd_bench.collect import student
from gkd_bench.config.schema import EvaluateStage, Prepare, Volumes
from gkd_bench.data.cache import PreparedDomain, open_prepared
from gkd_bench.data.domain import DomainCard, Modality
from gkd_bench.data.manifest import Manifest
from gkd_bench.data.shelf import cache_of, fetch
from gkd_bench.data.stacks import GREY_LEVELS
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.card import Exported, export_card, source_card
from gkd_bench.export.choice import Choice, choose_training, read_wish, training_key
from gkd_bench.export.compare import Difference, differences, real_batches, require_close
from gkd_bench.export.facts import (
    CARD_FILE,
    METADATA_FILE,
    ONNX_FILE,
    PT2_FILE,
    Facts,
    Network,
    Working,
    input_form,
    output_form,
)
from gkd_bench.export.graph import export_program, least_side, onnx_model, save_program
from gkd_bench.export.model_file import open_model, require_packages
from gkd_bench.networks.base import SegmentationNetwork
from gkd_bench.report.extras import Student
from gkd_bench.report.names import file_part
from gkd_bench.report.selection import LAST
from gkd_bench.stages.models import load_network
from gkd_bench.store.artefacts import Store, open_store
from gkd_bench.store.node import StageNode

FILES = {"onnx": ONNX_FILE, "pt2": PT2_FILE}
_PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": ()}
_WRITTEN = frozenset({*FILES.values(), METADATA_FILE, CARD_FILE})


@dataclass(frozen=True)
class Request:
    """What is to be exported.

    Attributes:
        run: ``SWEEP[/SOURCE[/METHOD[/SEED]]]`` or the id of a run in MLflow.
        output: folder to write; none = ``exports/<sweep>-<source>-<method>-seed<k>``.
        results: folder of results, which holds MLflow's database.
        store: address of the store.
        uri: MLflow's tracking URI, where it is another.
        formats: any of ``onnx`` and ``pt2``.
        tolerance: largest difference of a probability from the network's that is accepted.
        tiles: number of real tiles that the files are compared on.
    """

    run: str
    output: Path | None = None
    results: Path = Path("results")
    store: str | Path = ".gkd_store"
    uri: str | None = None
    formats: tuple[str, ...] = ("onnx", "pt2")
    tolerance: float = 1e-4
    tiles: int = 8


@dataclass(frozen=True)
class Trained:
    """The training that is exported, opened.

    Attributes:
        node: its stage.
        student: how its network is built and fed.
        network: the network, in eval mode on the CPU.
        domain: prepared images of its source.
        card: constants of its source.
        scored: how it was scored.
    """

    node: StageNode
    student: Student
    network: SegmentationNetwork
    domain: PreparedDomain
    card: DomainCard
    scored: EvaluateStage


def export_run(request: Request, say: Callable[[str], None] = print) -> Path:
    """Export one training; the folder that was written.

    Args:
        request: what and where.
        say: is told what was chosen and what was found, line by line.

    Raises:
        GkdBenchError: the training is not there, packages are missing, or a file does not compute what the network
            computes. Nothing is left behind then.
    """
    _check(request)
    choice = choose_training(read_wish(request.run, request.results, request.uri), open_store(request.store))
    one = choice.candidate
    say(f"{choice.saved.name}/{one.source}/{one.method}/{one.seed}: {choice.why}")
    folder = request.output or default_folder(choice)
    with replaced_folder(folder) as aside:
        trained = _open(choice, open_store(request.store))
        facts, found = _write_files(choice, trained, request, aside)
        for difference in found:
            say(str(difference))
        require_close(found, request.tolerance)
        settings = trained.node.settings
        described = Exported(choice, trained.student, settings, facts, trained.domain, trained.card, found, folder.name)
        (aside / METADATA_FILE).write_text(facts.to_text(), encoding="utf-8")
        (aside / CARD_FILE).write_text(export_card(described), encoding="utf-8")
    say(f"written: {folder} ({', '.join(sorted(path.name for path in folder.iterdir()))})")
    return folder


def default_folder(choice: Choice) -> Path:
    """``exports/<sweep>-<source>-<method>-seed<k>``."""
    one = choice.candidate
    return Path("exports") / file_part(f"{choice.saved.name}-{one.source}-{one.method}-seed{one.seed}")


def _check(request: Request) -> None:
    unknown = [name for name in request.formats if name not in FILES]
    if unknown or not request.formats:
        raise GkdBenchError(f"--formats: must be some of {', '.join(FILES)}, found {', '.join(unknown) or 'none'}")
    if not request.tolerance > 0 or request.tiles < 1:
        raise GkdBenchError("--tolerance must be greater than 0, and --tiles at least 1")
    require_packages(*(package for name in request.formats for package in _PACKAGES[name]))


def _open(choice: Choice, store: Store) -> Trained:
    """Load what the choice names. Raises StoreError for what the store or its prepared data no longer have."""
    one = choice.candidate
    key = training_key(one)
    artefact = store.get(key)
    scored = [node for node in choice.saved.stages if node.kind == "evaluate" and node.inputs["model"] == key]
    node = next((node for node in choice.saved.stages if node.key == key), artefact.node)
    name, _, fingerprint = node.data["source"].partition("@")
    cache = cache_of(store)
    fetch(node.data["source"], cache, store)
    domain = open_prepared(cache, name, fingerprint)
    handed = student(store, node, scored, choice.records)
    return Trained(
        node=node,
        student=replace(handed, prepare=domain.manifest.settings),
        network=load_network(artefact, torch.device("cpu"), "last" if one.variant == LAST else "network").eval(),
        domain=domain,
        card=source_card(choice.records, name),
        scored=EvaluateStage.model_validate(scored[0].settings["evaluate"] if scored else {}),
    )


def _write_files(choice: Choice, trained: Trained, request: Request, folder: Path) -> tuple[Facts, list[Difference]]:
    """Write the model files; their facts, and how far each is from the network once it is loaded again."""
    program = export_program(trained.network)
    facts = _facts(choice, trained, request.formats, least_side(program, trained.network))
    if "pt2" in request.formats:
        save_program(program, facts, folder / PT2_FILE)
    if "onnx" in request.formats:
        import onnx

        onnx.save(onnx_model(program, facts), str(folder / ONNX_FILE))
    batches = real_batches(trained.domain.source_splits().val, facts.tile, request.tiles)
    runs = {name: open_model(folder / FILES[name]).run for name in request.formats}
    return facts, differences(trained.network, runs, batches, facts.threshold)


def _facts(choice: Choice, trained: Trained, formats: Sequence[str], least: int) -> Facts:
    one, records, manifest = choice.candidate, choice.records, trained.domain.manifest
    packages = dict.fromkeys(["torch", *(package for name in formats for package in _PACKAGES[name])])
    fov, channels = manifest.factor * manifest.fov_diameter, trained.network.in_channels
    classes = manifest.classes if len(manifest.classes) == trained.network.classes - 1 else ()
    stacked = bool(manifest.stacks)
    return Facts(
        package_version=__version__,
        sweep=choice.saved.name,
        task=str(trained.node.settings.get("task", "")),
        source=one.source,
        method=one.method,
        seed=one.seed,
        key=trained.node.key,
        variant=one.variant,
        epoch=one.epoch,
        network=Network(
            name=str(trained.student.network["name"]),
            width=float(trained.student.network["width"]),
            stride=trained.network.stride,
            least_side=least,
        ),
        tile=trained.student.tile,
        overlap=trained.scored.overlap,
        threshold=trained.student.threshold,
        blend=trained.scored.blend,
        largest_component=trained.scored.largest_component,
        classes=classes,
        channels=channels,
        modality=modality_of(manifest),
        prepare=None if stacked else Prepare.model_validate(manifest.settings),
        volumes=Volumes.model_validate(manifest.settings) if stacked else None,
        working=Working(factor=manifest.factor, fov_width=fov, vessel_width=fov * trained.card.vessel_width),
        factors=dict(records.origin.factors),
        rule=records.origin.rule,
        chosen=choice.why,
        input_form=input_form(channels, "slice" if stacked else "image"),
        output_form=output_form(classes),
        versions={name: version(name) for name in packages},
    )


def modality_of(manifest: Manifest) -> Modality:
    """What the pixels of a prepared domain are, told from the windows that its stacks were prepared with."""
    if not manifest.stacks:
        return "photograph"
    window = Volumes.model_validate(manifest.settings).window
    used = {stack.window for stack in manifest.stacks}
    if used == {(window.low, window.high)}:
        return "ct"
    return "grey" if used == {GREY_LEVELS} else "mr"


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that takes its name, and the place of an earlier export, when the block ends well.

    Raises:
        GkdBenchError: something else than an export is there.
    """
    foreign = [path.name for path in target.iterdir() if path.name not in _WRITTEN] if target.is_dir() else []
    if foreign or (target.exists() and not target.is_dir()):
        raise GkdBenchError(f"{target}: is there already and is not an export; give another --output")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, old = (target.with_name(f".{target.name}.{uuid.uuid4().hex}") for _ in range(2))
    aside.mkdir()
    try:
        yield aside
        if target.exists():
            target.rename(old)
        try:
            aside.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        for folder in (aside, old):
            shutil.rmtree(folder, ignore_errors=True)
