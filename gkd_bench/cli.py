"""Console script ``gkd-bench``. Every command imports what it needs when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gkd_bench import __version__
from gkd_bench.errors import ConfigError, GkdBenchError
from gkd_bench.registry import DOMAINS

if TYPE_CHECKING:
    from gkd_bench.data.catalogue import Catalogue

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXIT_ERROR, EXIT_SOME_FAILED = 2, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 success, 1 some images failed, 2 a mistake of the user or of the data."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["sweep"]:
            return _sweep(arguments[1:])
        options = _parser().parse_args(arguments)
        return COMMANDS[options.command](options)
    except GkdBenchError as error:
        print(f"gkd-bench: {error}", file=sys.stderr)
        return EXIT_ERROR


def _sweep(arguments: Sequence[str]) -> int:
    """Run the main job with its own options (also ``python -m gkd_bench.sweep``)."""
    from gkd_bench.sweep import main as run_sweep

    return run_sweep(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gkd-bench", description="Generalizable Knowledge Distillation as a leak-free source x target benchmark."
    )
    parser.add_argument("--version", action="version", version=f"gkd-bench {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("sweep", help="run a sweep file: train, search, score, report", add_help=False)
    _add_data(commands)
    _add_report(commands)
    _add_dashboard(commands)
    _add_export(commands)
    _add_predict(commands)
    _add_store(commands)
    return parser


def _add_data(commands: Commands) -> None:
    data = commands.add_parser("data", help="look at the data sets").add_subparsers(
        dest="data_command", required=True, metavar="COMMAND"
    )
    check = data.add_parser("check", help="verify files, sizes, labels and splits; write contact sheets")
    check.add_argument("file", nargs="?", type=Path, help="sweep file that names the domains and how they are prepared")
    check.add_argument("--profile", help="profile of the sweep file")
    check.add_argument("--domains", nargs="+", metavar="NAME", help=f"instead of a file: {', '.join(DOMAINS)}")
    check.add_argument("--root", type=Path, help="folder of the data sets (default: the file's, or GKD_DATA_ROOT)")
    check.add_argument("--out", type=Path, default=Path("results/data_check"), help="folder for the pictures")
    init = data.add_parser("init", help="look at a folder of your own data and write the block that reads it")
    init.add_argument("folder", metavar="FOLDER", type=Path, help="folder with images and masks")
    init.add_argument("--name", help="name of the domain (default: from the folder's name)")
    init.add_argument(
        "--out", type=Path, metavar="FILE", help="write a whole sweep file there, instead of printing the block"
    )
    unpack = data.add_parser(
        "unpack", help="unpack a downloaded archive, or nothing of it if anything is wrong with it"
    )
    unpack.add_argument("archive", metavar="ARCHIVE", type=Path, help="a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz file")
    unpack.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to unpack into")


def _add_report(commands: Commands) -> None:
    report = commands.add_parser("report", help="make the report of finished sweeps again, from their records alone")
    report.add_argument("sweeps", nargs="+", metavar="SWEEP", help="name of a sweep; several become one report")
    report.add_argument(
        "--store", default=".gkd_store", metavar="ADDRESS", help="the store: a folder or s3://... (storage.root)"
    )
    report.add_argument("--results", type=Path, default=Path("results"), help="folder for results")
    report.add_argument("--no-figures", action="store_true", help="tables only: no figures, pictures or models")
    report.add_argument("--no-mlflow", action="store_true", help="leave MLflow as it is")
    _add_tracking(report)


def _add_dashboard(commands: Commands) -> None:
    dashboard = commands.add_parser("dashboard", help="open MLflow on the comparison, on this machine only")
    dashboard.add_argument("sweep", nargs="?", metavar="SWEEP", help="name of a sweep (default: the latest)")
    dashboard.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    dashboard.add_argument("--port", type=int, default=5000, help="first port to try")
    dashboard.add_argument("--no-browser", action="store_true", help="only print the links")
    _add_tracking(dashboard)


def _add_export(commands: Commands) -> None:
    export = commands.add_parser(
        "export",
        help="write a trained student as ONNX and torch.export files",
        description="Write one trained student, alone, as files that need neither its sweep nor its store: ONNX and "
        "torch.export for any batch and image size, what feeding them takes, and a model card. Every file is compared with "
        "the trained network on real tiles first, and refused when it differs.",
    )
    export.add_argument(
        "run",
        metavar="RUN",
        help="SWEEP[/SOURCE[/METHOD[/SEED]]], or the id of a run in MLflow; of several trainings that are left, the one "
        "that the sweep's selection rule ranks first on the source's validation images",
    )
    export.add_argument("--output", type=Path, metavar="DIR", help="default: exports/SWEEP-SOURCE-METHOD-seedN")
    export.add_argument(
        "--store", default=".gkd_store", metavar="ADDRESS", help="the store: a folder or s3://... (storage.root)"
    )
    export.add_argument("--results", type=Path, default=Path("results"), help="folder of results, with mlflow.db")
    export.add_argument("--uri", help="MLflow's tracking URI, where RUN is a run of another database")
    export.add_argument("--formats", default="onnx,pt2", help="onnx, pt2 or both (default: %(default)s)")
    export.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference of a probability (default: %(default)g)"
    )
    export.add_argument("--tiles", type=int, default=8, help="real tiles to compare on (default: %(default)s)")


def _add_predict(commands: Commands) -> None:
    predict = commands.add_parser(
        "predict",
        help="segment photographs or volumes with an exported model",
        description="Segment photographs, or CT and MR volumes (NIfTI), with a model of `gkd-bench export`, prepared and "
        "covered by windows as in the benchmark. Writes NAME_mask.png (0 or 255, of several classes their numbers) of the "
        "photograph's size or NAME_mask.nii.gz in the volume's voxels, NAME_overlay.png and predictions.csv. "
        "Research only; no medical device.",
    )
    predict.add_argument(
        "model", metavar="MODEL", type=Path, help="an .onnx file, a .pt2 file, or the folder of an export"
    )
    predict.add_argument("images", metavar="IMAGES", nargs="+", type=Path, help="files, or folders of them")
    predict.add_argument("--output", type=Path, default=Path("predictions"), metavar="DIR", help="default: %(default)s")
    predict.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    predict.add_argument(
        "--threshold", type=float, metavar="T", help="of one class; default: the one that it was scored with"
    )
    scale = predict.add_mutually_exclusive_group()
    scale.add_argument(
        "--vessel-width", type=float, metavar="PX", help="mean width of vessels in your images, in pixels"
    )
    scale.add_argument("--as-domain", metavar="NAME", help=f"your images are like those of: {', '.join(DOMAINS)}")
    scale.add_argument("--scale", type=float, metavar="F", help="resize photographs by this factor")
    predict.add_argument(
        "--probability", action="store_true", help="of photographs: write NAME_probability.png as well, 16 bits"
    )


def _add_store(commands: Commands) -> None:
    from gkd_bench.store.command import add_commands

    add_commands(commands.add_parser("store", help="look after the store: list, verify, explain, prune, remove"))


def _add_tracking(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--uri", help="MLflow's tracking URI (tracking.uri; default: mlflow.db in the results)")
    parser.add_argument("--experiment", default="gkd_bench", help="MLflow's experiment (tracking.experiment)")


def _report(options: argparse.Namespace) -> int:
    """``gkd-bench report``: trains nothing, reads no sweep but the named ones."""
    from rich.console import Console

    from gkd_bench.config.schema import Tracking
    from gkd_bench.publish import Wanted, report_again
    from gkd_bench.store.artefacts import open_store
    from gkd_bench.sweep import PLAIN_WIDTH

    tracking = Tracking(enabled=not options.no_mlflow, uri=options.uri, experiment=options.experiment)
    wanted = Wanted(options.results, tracking, not options.no_figures)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    report_again(options.sweeps, open_store(options.store), wanted, console)
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    """``gkd-bench dashboard``: serves MLflow on 127.0.0.1 until Ctrl-C."""
    from gkd_bench.report.dashboard import open_dashboard

    browser = not options.no_browser
    return open_dashboard(
        options.results, options.uri, options.experiment, options.sweep, options.port, browser=browser
    )


def _data(options: argparse.Namespace) -> int:
    return DATA_COMMANDS[options.data_command](options)


def _init_data(options: argparse.Namespace) -> int:
    """``gkd-bench data init``: prints the block, or writes a sweep file that is not there yet."""
    from gkd_bench.data.look import look
    from gkd_bench.data.look_text import block_text, sweep_text

    if options.out is None:
        print(block_text(look(options.folder, options.name)), end="")
        return 0
    if options.out.exists():
        raise ConfigError([f"--out: {options.out} is there already; give another name"], "the command line")
    text = sweep_text(look(options.folder, options.name), options.out)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}: go through the lines with 'check this', then `gkd-bench data check {options.out}`")
    return 0


def _unpack_data(options: argparse.Namespace) -> int:
    """``gkd-bench data unpack``."""
    from gkd_bench.data.unpack import unpack

    print(f"unpacked {unpack(options.archive, options.to)} files into {options.to}")
    return 0


def _check_data(options: argparse.Namespace) -> int:
    """``gkd-bench data check``: the exit code is 2 when a domain cannot be used."""
    names, catalogue = _what_to_check(options)
    unknown = [name for name in names if name not in DOMAINS and name not in catalogue.folders]
    if unknown:
        from gkd_bench.config.problems import not_one_of

        known = [*DOMAINS, *catalogue.folders]
        lines = [f"--domains: {not_one_of(name, 'domain', known)}" for name in unknown]
        raise ConfigError(lines, "the command line")
    from gkd_bench.data.check import check_domains

    report = check_domains(names, catalogue, options.out)
    print(report.text())
    return 0 if report.ok else EXIT_ERROR


def _what_to_check(options: argparse.Namespace) -> tuple[Sequence[str], Catalogue]:
    """Domains and their catalogue: from the sweep file, or names with the default preparation."""
    from gkd_bench.config.load import load_sweep
    from gkd_bench.data.catalogue import Catalogue

    if options.file is not None:
        overrides = [f"data.root={json.dumps(str(options.root))}"] if options.root else []
        sweep = load_sweep(options.file, options.profile, overrides).sweep
        return options.domains or sweep.data.domains, Catalogue.of(sweep.data, sweep.classes)
    if not options.domains:
        raise ConfigError(["give a sweep file, or --domains NAME ..."], "the command line")
    root = options.root or os.environ.get("GKD_DATA_ROOT")
    return options.domains, Catalogue(Path(root) if root else None)


def _export(options: argparse.Namespace) -> int:
    """``gkd-bench export``: trains nothing; leaves nothing behind when it fails."""
    from gkd_bench.export.bundle import Request, export_run

    formats = tuple(dict.fromkeys(name.strip() for name in options.formats.split(",") if name.strip()))
    export_run(
        Request(
            options.run,
            options.output,
            options.results,
            options.store,
            options.uri,
            formats,
            options.tolerance,
            options.tiles,
        )
    )
    return 0


def _predict(options: argparse.Namespace) -> int:
    """``gkd-bench predict``: the exit code is 1 when some of the images could not be segmented."""
    from gkd_bench.export.inputs import Wanted
    from gkd_bench.export.model_file import open_model
    from gkd_bench.export.predict import predict_files
    from gkd_bench.export.scale import ScaleChoice

    scale = ScaleChoice(options.vessel_width, options.as_domain, options.scale)
    wanted = Wanted(options.output, options.threshold, scale, options.probability)
    problems = predict_files(open_model(options.model, options.device), options.images, wanted)
    if problems:
        print("\n".join([f"gkd-bench: {len(problems)} could not be segmented:", *problems]), file=sys.stderr)
    return EXIT_SOME_FAILED if problems else 0


def _store(options: argparse.Namespace) -> int:
    """``gkd-bench store``: the exit code is 1 when something is damaged."""
    from gkd_bench.store.command import names_a_file, run

    if options.store_command == "explain" and names_a_file(options.name):
        return _explain_sweep(options)
    return run(options)


def _explain_sweep(options: argparse.Namespace) -> int:
    """``gkd-bench store explain SWEEP.yaml``: prepares and trains nothing."""
    from rich.console import Console

    from gkd_bench.conduct import Conductor
    from gkd_bench.config.load import load_sweep
    from gkd_bench.plan import Planner
    from gkd_bench.preview import explain_plan
    from gkd_bench.store.artefacts import open_store
    from gkd_bench.sweep import named, prepare

    sweep = named(load_sweep(Path(options.name), options.profile, options.set))
    store = open_store(options.store or sweep.storage.root)
    domains = prepare(sweep, store, allow_missing=True, console=Console(stderr=True), dry=True)
    conductor = Conductor(sweep, Planner(sweep, domains.references, domains.banks), store)
    print(*explain_plan(conductor, options.kind), sep="\n")
    return 0


DATA_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "check": _check_data,
    "init": _init_data,
    "unpack": _unpack_data,
}
COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "data": _data,
    "report": _report,
    "dashboard": _dashboard,
    "export": _export,
    "predict": _predict,
    "store": _store,
}


if __name__ == "__main__":
    sys.exit(main())
