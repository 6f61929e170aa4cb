"""What a trial costs the driver of a sweep when its stages do nothing: up to 1,000 trials of 100 epochs each.

    python benchmarks/many_trials.py                                     # all of it; about six minutes
    python benchmarks/many_trials.py --engine inprocess --sampler random --trials 10 100
    python benchmarks/many_trials.py --keep rows.jsonl --figure docs/images/figure_many_trials.webp

Every row is a whole sweep with one search: conductor, planner, Optuna, ASHA, journal, queue, store, final trainings, records. Only
the stages are made up: they write their artefact, records and all, and train nothing. ASHA compares the trials at every rung and
stops none of them. Time is CPU time, user and system, of all threads of the driver's process, and given in four parts: what the
stages take there, in process; what Optuna takes, since the cost of its TPE grows with the number of trials; on Ray, what Ray
and Tune take outside of this package's callbacks; and the rest, the driver's own. Rows in process have a process each;
those on Ray share one session with one worker group. ``--keep`` names a file of measured rows, which are not measured again.

Targets, at 1,000 trials: at most 20 ms of the driver's own time per trial, and of the driver's and Optuna's together in random
search; at most 30 KB of memory per trial over the second half of a search (a hundred epochs and two stages are about that).
Ends with code 1 when one of them is missed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gkd_bench.stages.monitor import Monitor, Outcome, Progress, Workplace
from gkd_bench.store.artefacts import Draft, LocalStore, open_store
from gkd_bench.store.node import StageNode

EPOCHS = 100
SIZES = {"inprocess": (10, 30, 100, 300, 1000), "ray": (10, 30, 100)}
SAMPLERS = {"inprocess": ("random", "tpe"), "ray": ("random",)}
LARGE = 1000
MOST_MS, MOST_KB = 20.0, 30.0
DOMAINS = ("phantom_clear", "phantom_dim")
Record = dict[str, Any]


# ---------------------------------------------------------------- stages that do nothing


class NoStage:
    """A stage runner whose stages publish made-up records and do nothing else; ``seconds``: CPU seconds of their own."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, node: StageNode, workplace: Workplace, monitor: Monitor) -> Outcome:
        begun, store = time.thread_time(), open_store(workplace.store)
        if store.has(node.key):
            return Outcome("cached")
        epochs = EPOCHS if node.kind == "distill" else 0
        telling = time.thread_time()
        for epoch in range(1, epochs + 1):
            monitor.report(Progress(epoch, epochs, {"val/dice": epoch / epochs}))
        told = time.thread_time()
        store.publish(node, Draft(records=made_up(node, epochs)))
        self.seconds += time.thread_time() - begun - (told - telling)
        return Outcome("done")


execute = NoStage()


def made_up(node: StageNode, epochs: int) -> list[Record]:
    """Records of a stage, enough for a report; a trial's score hangs on its parameters and on nothing else."""
    score = int(node.key[:8], 16) / 2**32
    if node.kind == "stress":
        facts = {"epoch": EPOCHS, "val_dice": score, "val_dice_stressed": score, "stress_fsd": None, "macs": 2e6}
        return [{"record": "candidate", "split": "val", "variant": "best", **facts}]
    if node.kind == "evaluate":
        scored = {"split": "test", "variant": "best", "dice": score, "dice_fov": score, "hd95_fov": 1.0}
        images = [{"record": "image", "image": f"i{at}", "subject": f"s{at}", **scored} for at in range(3)]
        return [*images, {"record": "pooled", "images": 3, "subjects": 3, **scored}]
    cost = {"seconds": 0.0, "steps": 0, "device": "cpu", "threads": 1, "workers": 1, "parameters": 1, "versions": "{}"}
    history = [{"record": "epoch", "split": "val", "epoch": e, "val/dice": e / epochs} for e in range(1, epochs + 1)]
    records: list[Record] = [*history, {"record": "cost", **cost}]
    if node.kind == "efficiency":
        facts = {"role": node.settings["role"], "input": "1x1x64x64", "device": "cpu", "threads": 1, "parameters": 1}
        times = {"macs": 2e6, "latency_p50_ms": 1.0, "latency_p95_ms": 1.0, "peak_memory_mb": 1.0}
        records.append({"record": "efficiency", "split": "none", **facts, **times})
    return records


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Row:
    """What one sweep cost.

    Attributes:
        engine: ``inprocess`` or ``ray``.
        sampler: of the search.
        trials: of the search.
        driver: CPU seconds of the driver for the whole sweep, up to its records, without the next three.
        optuna: in Optuna's ``ask`` and ``tell``.
        tune: of Ray and Tune during the search, outside of this package's callbacks.
        stages: of the stages, in the driver's process.
        wall: seconds of the search.
        memory: resident megabytes of the driver when the last trial began.
        growth: kilobytes by which that grew per trial over the second half of the search.
        journal: bytes of the search's journal.
        records: of the sweep.
        collecting: CPU seconds of collecting and saving them.
        report: CPU seconds of ``gkd-bench report`` without figures and MLflow, in a process of its own; none on Ray.
        report_memory: its peak in megabytes.
    """

    engine: str
    sampler: str
    trials: int
    driver: float
    optuna: float
    tune: float
    stages: float
    wall: float
    memory: float
    growth: float
    journal: int
    records: int
    collecting: float
    report: float | None = None
    report_memory: float | None = None

    def each(self, part: str) -> float:
        """Milliseconds of a part per trial."""
        return 1000 * float(getattr(self, part)) / self.trials

    def line(self) -> str:
        """A Markdown row."""
        cells = [
            self.engine,
            self.sampler,
            self.trials,
            *(f"{self.each(part):.1f}" for part in ("driver", "optuna", "tune", "wall")),
            f"{self.memory:.0f}",
            f"{self.growth:.1f}" if self.trials >= 100 else "-",
            f"{self.journal / 1e6:.2f}",
            self.records,
            f"{self.collecting:.1f}",
            "-" if self.report is None else f"{self.report:.1f}",
            "-" if self.report_memory is None else f"{self.report_memory:.0f}",
        ]
        return "| " + " | ".join(map(str, cells)) + " |"


HEAD = """| engine | sampler | trials | driver ms | Optuna ms | Ray, Tune ms | wall ms | memory MB | KB per trial | journal MB | records | collect s | report s | report MB |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"""


class Meter:
    """CPU time and memory of this process; what is spent inside some methods is counted under a label of theirs."""

    def __init__(self) -> None:
        self.inside = {"optuna": 0.0, "callbacks": 0.0}
        self.memory: list[float] = []
        self._stages, self._begun = execute.seconds, time.process_time()

    def spent(self) -> tuple[float, float]:
        """CPU seconds so far: of the process without the stages, and of the stages."""
        stages = execute.seconds - self._stages
        return time.process_time() - self._begun - stages, stages

    @contextmanager
    def counting(self, label: str, owner: type, *names: str) -> Iterator[None]:
        """Count what the calling thread spends in methods of a class."""
        kept = {name: getattr(owner, name) for name in names}
        for name, method in kept.items():
            setattr(owner, name, self._timed(label, method))
        try:
            yield
        finally:
            for name, method in kept.items():
                setattr(owner, name, method)

    def _timed(self, label: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.thread_time()
            try:
                return method(*arguments, **options)
            finally:
                self.inside[label] += time.thread_time() - begun

        return timed

    def growth(self) -> float:
        """Slope of the memory over the second half of the trials by least squares, in kilobytes per trial."""
        import numpy as np

        half = self.memory[len(self.memory) // 2 :]
        return float(np.polyfit(range(len(half)), half, 1)[0])


def resident() -> float:
    """Resident memory of this process in kilobytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def make_sweep(engine: str, sampler: str, trials: int, store: Path) -> Any:
    """A sweep of one source, two targets and one seed, and a search of two loss weights of GKD."""
    from gkd_bench.config.schema import Sweep

    weight = {"low": 0.001, "high": 1.0, "log": True}
    search = {
        "trials": trials,
        "sampler": sampler,
        "scheduler": "asha",
        "spaces": {"gkd": {"methods.gkd.intra": weight, "methods.gkd.cross": weight}},
        "score_trials": False,
    }
    tree = {
        "name": f"many-{engine}-{sampler}-{trials}",
        "data": {"domains": DOMAINS},
        "pairs": {"sources": DOMAINS[:1]},
        "stages": {"distill": {"epochs": EPOCHS}},
        "methods": {"gkd": {}},
        "search": search,
        "seeds": (0,),
        "compute": {"engine": engine},
        "storage": {"root": str(store)},
    }
    return Sweep.model_validate(tree)


@dataclass(frozen=True)
class Engine:
    """An open engine, what runs a study on it, and the methods by which that calls this package back."""

    engine: Any
    run_study: Callable[..., None]
    callbacks: Sequence[tuple[Any, ...]] = ()


def measure(name: str, on: Engine, sampler: str, trials: int, folder: Path) -> Row:
    """Run one sweep and count.

    Args:
        name: of the engine.
        on: the engine.
        sampler: of the search.
        trials: of the search.
        folder: of the store.
    """
    import optuna

    from gkd_bench.collect import collect
    from gkd_bench.conduct import Conductor
    from gkd_bench.plan import Planner
    from gkd_bench.publish import origin_of
    from gkd_bench.report.archive import SavedSweep, save_sweep

    sweep, store = make_sweep(name, sampler, trials, folder), LocalStore(folder)
    references = {domain: f"{domain}@0" for domain in DOMAINS}
    meter, wall, outside = Meter(), 0.0, 0.0
    with ExitStack() as stack:
        stack.enter_context(meter.counting("optuna", optuna.Study, "ask", "tell"))
        for owner, *names in on.callbacks:
            stack.enter_context(meter.counting("callbacks", owner, *names))

        def run_study(study: Any, job: Any, engine: Any) -> None:
            nonlocal wall, outside

            def make_nodes(trial: Any) -> Any:
                meter.memory.append(resident())
                return job.make_nodes(trial)

            begun, before = time.monotonic(), meter.spent()[0]
            on.run_study(study, replace(job, make_nodes=make_nodes), engine)
            wall = time.monotonic() - begun
            if on.callbacks:
                outside = meter.spent()[0] - before - meter.inside["callbacks"]

        conductor = Conductor(sweep, Planner(sweep, references, {DOMAINS[0]: "bank@0"}), store)
        result = conductor.run(on.engine, run_study)
        spent, stages = meter.spent()
    if result.failed or len(meter.memory) != trials:
        raise SystemExit(f"{len(meter.memory)} of {trials} trials began; failed: {dict(result.failed)}")
    begun = time.process_time()
    records = collect(sweep, store, result, {})
    origin = origin_of(sweep, references, {}, result, "python benchmarks/many_trials.py")
    save_sweep(SavedSweep(sweep.name, tuple(records), origin, ()), store)
    return Row(
        engine=name,
        sampler=sampler,
        trials=trials,
        driver=spent - outside - meter.inside["optuna"],
        optuna=meter.inside["optuna"],
        tune=outside,
        stages=stages,
        wall=wall,
        memory=meter.memory[-1] / 1024,
        growth=meter.growth(),
        journal=(folder / "sweeps" / sweep.name / "journal.jsonl").stat().st_size,
        records=len(records),
        collecting=time.process_time() - begun,
    )


@contextmanager
def in_process(folder: Path) -> Iterator[Engine]:
    """The engine without workers."""
    from gkd_bench.cluster.inprocess import InProcessEngine
    from gkd_bench.cluster.tune_search import run_study_inprocess

    with InProcessEngine(execute, Workplace(folder, folder), LocalStore(folder).has) as engine:
        yield Engine(engine, run_study_inprocess)


@contextmanager
def on_ray(folder: Path) -> Iterator[Engine]:
    """A Ray session with one worker group, which is up."""
    from gkd_bench.cluster.ray_engine import Places, RayEngine
    from gkd_bench.cluster.session import RaySession
    from gkd_bench.cluster.tune_search import run_study_on_ray
    from gkd_bench.config.schema import Compute, Pool

    compute, places = Compute(pools=(Pool(),)), Places(folder, folder, runner="many_trials:execute")
    with (
        RaySession(compute) as session,
        RayEngine(session, compute, places, LocalStore(folder).has) as engine,
    ):
        from gkd_bench.cluster.tune_driver import StudyScheduler, StudySearcher

        first = StageNode("teacher", {}, 0, {})
        engine.submit([first])
        engine.wait([first.key])
        heard = ((StudySearcher, "suggest", "on_trial_complete"), (StudyScheduler, "on_trial_result"))
        yield Engine(engine, run_study_on_ray, heard)


def rows(engine: str, sampler: str, sizes: Sequence[int]) -> Iterator[Row]:
    """The rows of one process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with on_ray(folder) if engine == "ray" else in_process(folder) as opened:
            for trials in sizes:
                row = measure(engine, opened, sampler, trials, folder)
                yield row if engine == "ray" else reported(row, folder)


def reported(row: Row, store: Path) -> Row:
    """The row with what ``gkd-bench report`` takes for its records in a process of its own."""
    name = make_sweep(row.engine, row.sampler, row.trials, store).name
    command = [sys.executable, "-m", "gkd_bench.cli", "report", name, "--store", str(store)]
    options = ["--results", str(store / "results"), "--no-figures", "--no-mlflow"]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"gkd-bench report ended with {child.returncode}")
    return replace(row, report=usage.ru_utime + usage.ru_stime, report_memory=usage.ru_maxrss / 1024)


# ---------------------------------------------------------------- all rows


def in_a_process(engine: str, sampler: str, sizes: Sequence[int]) -> Iterator[Row]:
    """The same rows, measured in a process of their own, one by one as they come."""
    command = [sys.executable, __file__, "--child", "--engine", engine, "--sampler", sampler, "--trials"]
    with subprocess.Popen([*command, *map(str, sizes)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("{"):
                yield Row(**json.loads(line))
    if child.returncode:
        raise SystemExit(f"the rows of {engine}, {sampler} ended with {child.returncode}")


def all_rows(options: argparse.Namespace) -> list[Row]:
    """The rows asked for, those of ``--keep`` as they are; prints each."""
    kept = [Row(**json.loads(line)) for line in options.keep.read_text().splitlines()] if _exists(options.keep) else []
    known = {(row.engine, row.sampler, row.trials): row for row in kept}
    found: list[Row] = []
    print(HEAD, flush=True)
    for engine in options.engine:
        for sampler in options.sampler or SAMPLERS[engine]:
            sizes = options.trials or SIZES[engine]
            groups = [sizes] if engine == "ray" else [[size] for size in sizes]
            for group in groups:
                there = [known[place] for size in group if (place := (engine, sampler, size)) in known]
                left = [size for size in group if (engine, sampler, size) not in known]
                for row in [*there, *([] if not left else in_a_process(engine, sampler, left))]:
                    print(row.line(), flush=True)
                    found.append(row)
                    if options.keep and row not in there:
                        with options.keep.open("a") as file:
                            file.write(json.dumps(asdict(row)) + "\n")
    return found


def _exists(path: Path | None) -> bool:
    return path is not None and path.exists()


def missed_goals(found: Sequence[Row]) -> list[str]:
    """The targets that rows of 1,000 trials miss, in words."""
    missed = []
    for row in (row for row in found if row.trials >= LARGE):
        name = f"{row.engine}, {row.sampler}, {row.trials} trials"
        spent = row.each("driver") + (row.each("optuna") if row.sampler == "random" else 0.0)
        if spent > MOST_MS:
            missed.append(f"{name}: {spent:.1f} ms of the driver per trial, not at most {MOST_MS:g}")
        if row.growth > MOST_KB:
            missed.append(f"{name}: {row.growth:.1f} KB more memory per trial, not at most {MOST_KB:g}")
    return missed


def draw(found: Sequence[Row], path: Path) -> None:
    """Cost against the number of trials: time per trial, memory, and what the report takes."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    blue, orange, green, purple, grey = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#5F5F5F"  # Okabe and Ito
    lines: list[tuple[int, str, str, str, str, str, Callable[[Row], float | None]]] = [
        (0, "inprocess", "random", "driver, random search", blue, "o-", lambda row: row.each("driver")),
        (0, "inprocess", "tpe", "driver, TPE", orange, "s-", lambda row: row.each("driver")),
        (0, "inprocess", "tpe", "Optuna's TPE", orange, "s:", lambda row: row.each("optuna")),
        (0, "ray", "random", "driver, on Ray", green, "^-", lambda row: row.each("driver")),
        (0, "ray", "random", "Ray and Tune", green, "^:", lambda row: row.each("tune")),
        (1, "inprocess", "random", "driver in process", blue, "o-", lambda row: row.memory),
        (1, "ray", "random", "driver on Ray", green, "^-", lambda row: row.memory),
        (1, "inprocess", "random", "gkd-bench report", purple, "D-", lambda row: row.report_memory),
        (2, "inprocess", "random", "collecting the records", blue, "o-", lambda row: row.collecting),
        (2, "inprocess", "random", "gkd-bench report", purple, "D-", lambda row: row.report),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for place, engine, sampler, label, colour, style, value in lines:
        points = sorted((row.trials, value(row)) for row in found if (row.engine, row.sampler) == (engine, sampler))
        sound = [(trials, height) for trials, height in points if height]
        if sound:
            axes[place].loglog(*zip(*sound, strict=True), style, color=colour, label=label, markersize=5)
    axes[0].axhline(MOST_MS, color=grey, linewidth=0.8, linestyle="--", label=f"target: {MOST_MS:g} ms")
    for axis, title in zip(axes, ("CPU time per trial (ms)", "memory (MB)", "CPU time (s)"), strict=True):
        axis.set(xlabel=f"trials of {EPOCHS} epochs (number)", ylabel=title)
        axis.grid(visible=True, which="both", color="#EDEDED", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8)
    axes[0].set_ylim(top=2000)  # room for its legend
    axes[1].set_ylim(bottom=50)
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 88})


def main() -> int:
    """Measure, print a Markdown table, draw; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sampler", nargs="+", choices=SAMPLERS["inprocess"], help="default: as in the description")
    parser.add_argument("--trials", nargs="+", type=int, help="numbers of trials; default: up to 1,000, on Ray 100")
    parser.add_argument("--keep", type=Path, help="file of rows: those in it are not measured again")
    parser.add_argument("--figure", type=Path, help="draw the rows into this file")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        for row in rows(options.engine[0], options.sampler[0], options.trials):
            print(json.dumps(asdict(row)), flush=True)
        return 0
    found = all_rows(options)
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    if options.figure:
        draw(found, options.figure)
    missed = missed_goals(found)
    print("\n".join(["missed:", *missed]) if missed else "all targets reached")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
