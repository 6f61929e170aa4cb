"""The model card of an exported student: the card of the model registry, with what somebody needs who has only the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.domain import DomainCard
from gkd_bench.errors import GkdBenchError
from gkd_bench.export.choice import Choice, is_adapted
from gkd_bench.export.compare import Difference
from gkd_bench.export.facts import INPUT, ONNX_FILE, OUTPUT, Facts
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.efficiency import efficiency_table
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Student
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import Card, model_card
from gkd_bench.report.names import TEACHER, method_title, metric_column, metric_title
from gkd_bench.report.render import to_markdown
from gkd_bench.report.rows import alone_of, options_of

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Exported:
    """What a card is written from.

    Attributes:
        choice: the training and how it was chosen.
        student: how its network is built and fed.
        settings: settings of its training.
        facts: metadata of the files.
        domain: prepared images of the source.
        source: constants of the source domain.
        differences: how far each file is from the network.
        folder: name of the export's folder.
    """

    choice: Choice
    student: Student
    settings: Mapping[str, Any]
    facts: Facts
    domain: PreparedDomain
    source: DomainCard
    differences: Sequence[Difference]
    folder: str


def export_card(exported: Exported) -> str:
    """The card in Markdown."""
    choice = exported.choice
    card = Card(choice.records, choice.candidate, exported.student, choice.why)
    further = [_compared(exported), _cost(exported), _method(exported), _data(exported), _checked(exported)]
    return model_card(card, _use(exported), [part for part in further if part])


# ---------------------------------------------------------------- use


def _use(exported: Exported) -> str:
    facts = exported.facts
    has_onnx = any(one.format == "onnx" for one in exported.differences)
    parts = [
        "## Use\n\nA folder of photographs, prepared and scored as in the benchmark (`pip install 'gkd-bench[export]'`):",
        f"```bash\ngkd-bench predict {exported.folder} PHOTOS --output masks\n```",
        f"Input `{INPUT}`: {facts.input_form}. Output `{OUTPUT}`: {facts.output_form}. Any batch; any height and width of at "
        f"least {facts.network.least_side} pixels.",
    ]
    if has_onnx:
        parts += [
            "Without this package, one photograph in one pass (scores below are of overlapping windows of "
            f"{facts.tile} pixels; `factor` is for photographs like those of {facts.source}):",
            f"```python\n{snippet(facts)}```",
        ]
    parts.append(
        "Intended for comparing how well light networks do on other scanners and hospitals, and as a starting point for "
        "research.\n"
    )
    return "\n\n".join(parts)


def snippet(facts: Facts) -> str:
    """Ten lines that run the ONNX file on ``photo.png`` with OpenCV and onnxruntime alone, and write ``mask.png``."""
    prepare = facts.prepare
    grey = "photo[..., 1].copy()  # green" if prepare.channel == "green" else "cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)"
    lines = [
        "import cv2, numpy as np, onnxruntime",
        "photo = cv2.imread('photo.png')",
        f"factor = {facts.working.factor:.6g}  # working pixels per pixel of the photograph",
        f"grey = {grey}",
        "grey = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)",
    ]
    if prepare.clahe:
        grid = prepare.clahe.grid
        lines.append(f"grey = cv2.createCLAHE({prepare.clahe.clip:g}, ({grid}, {grid})).apply(grey)")
    if prepare.intensity == "zscore":  # here over the whole picture; the benchmark leaves the dark surround out
        lines.append("grey = np.clip(np.rint(128 + 32 * (grey - grey.mean()) / max(grey.std(), 1)), 0, 255)")
    lines += [
        f"session = onnxruntime.InferenceSession('{ONNX_FILE}')",
        "images = grey[None, None].astype(np.float32) / 255",
        f"probability = session.run(['{OUTPUT}'], {{'{INPUT}': images}})[0][0, 0]",
        "probability = cv2.resize(probability, photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)",
        f"cv2.imwrite('mask.png', (probability >= {facts.threshold:g}).astype(np.uint8) * 255)",
    ]
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- scores and cost


def _compared(exported: Exported) -> str:
    """The method over all seeds beside the teacher and the student alone, per target, with intervals and tests."""
    records, one = exported.choice.records, exported.choice.candidate
    evidence = Evidence.of(records)
    metric, alone = evidence.headline, alone_of(records, one.method)
    if not any(key[0] == one.source and key[2] == one.method for key in evidence.cells(metric)):
        return ""
    shown = list(dict.fromkeys(name for name in (TEACHER, alone, one.method) if name))
    columns = [Column("target", "target"), *(metric_column(name, method_title(name), metric) for name in shown)]
    gains = {} if one.method in (alone, TEACHER) else evidence.gain_cells(metric)
    if gains:
        columns.append(
            metric_column("gain", f"{method_title(one.method)} - {method_title(alone or '')}", metric, signed=True)
        )
    rows = []
    for target in _scored(records):
        cells = [evidence.cells(metric).get((one.source, target, name), Cell()) for name in shown]
        cells += [gains.get((one.source, target, one.method), Cell())] if gains else []
        rows.append((Cell(target).marked("in_domain", target == one.source), *cells))
    caption = (
        f"{metric_title(metric)}, mean ± half width of the 95 % t interval over n = {len(records.seeds)} trainings with "
        "different seeds; the file holds one of them"
    )
    text = to_markdown(
        Table("compared", "The method over all seeds", caption + ".", tuple(columns), tuple(rows), "comparison"), 2
    )
    return text + ("\n" + _adapted_note() if is_adapted(one) else "")


def _adapted_note() -> str:
    return (
        "These scores were reached with BatchNorm statistics re-estimated on the target's unlabelled test images. **The files "
        "hold the student without that adaptation.**\n"
    )


def _cost(exported: Exported) -> str:
    """Rows of the sweep's efficiency table for the exported network and the teacher's."""
    records, one = exported.choice.records, exported.choice.candidate
    if records.of("efficiency").empty:
        return ""
    table = efficiency_table(records)
    wanted = {method_title(one.method), method_title(TEACHER)}
    rows = tuple(row for row in table.rows if str(row[0].value) in wanted)
    if not rows:
        return ""
    return to_markdown(Table("cost", "What it costs", table.caption, table.columns, rows, "efficiency"), 2)


# ---------------------------------------------------------------- method and data


def _method(exported: Exported) -> str:
    records, one, settings = exported.choice.records, exported.choice.candidate, exported.settings
    known = options_of(records, one.method)
    lines = [f"* method: {method_title(one.method)}" + (f" ({known.paper})" if known and known.paper else "")]
    lines += [f"* port: {known.port}" if known and known.port else ""]
    lines += [f"* `{name}`: `{value}`" for name, value in _options(settings).items()]
    return "## Method\n\n" + "\n".join(line for line in lines if line) + "\n"


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options and the training's settings that matter most, by their paths in a sweep file."""
    method = settings.get("method", "")
    found = {f"methods.{method}.{name}": value for name, value in dict(settings.get("options") or {}).items()}
    stage = dict(settings.get("distill") or {})
    found |= {f"stages.distill.{name}": stage[name] for name in ("epochs", "epoch_steps", "batch") if name in stage}
    return found | {f"augment.{name}": value for name, value in dict(settings.get("augment") or {}).items()}


def _data(exported: Exported) -> str:
    domain, card = exported.domain.manifest, exported.source
    counts = []
    for split in _SPLITS:
        images = [image for image in domain.images if image.split == split]
        counts.append(f"{len(images)} images of {len({image.subject for image in images})} subjects ({split})")
    records = exported.choice.records
    lines = [
        f"* source: {card.title}; {', '.join(counts)}. Weights were fitted on the first, chosen on the second.",
        f"* seed of this training: {exported.facts.seed}; seeds of the sweep: {', '.join(map(str, records.seeds)) or 'none'}",
        f"* domains it was scored on: {', '.join(_scored(records)) or 'none'}; none but the source was seen by any training or selection",
        f"* terms of the source data: {card.terms}"
        + (f" ({card.source}). The data are not in this folder; whether weights fitted on them may be passed on is a matter of "
           "these terms, not of the package's Apache-2.0 licence." if card.folder else "."),
    ]  # fmt: skip
    return "## Data and licence\n\n" + "\n".join(lines) + "\n"


def _scored(records: SweepRecords) -> list[str]:
    return [target for target in records.targets if target not in records.missing]


def _checked(exported: Exported) -> str:
    facts = exported.facts
    lines = [f"* {one}" for one in exported.differences]
    lines.append(f"* written with {', '.join(f'{name} {version}' for name, version in facts.versions.items())}")
    return (
        "## Files\n\nCompared with the trained network on real tiles of the source's validation images:\n\n"
        + "\n".join(lines)
        + "\n"
    )


def source_card(records: SweepRecords, source: str) -> DomainCard:
    """Constants of the source domain. Raises GkdBenchError when this package does not know it."""
    from gkd_bench.registry import DOMAINS

    if source not in DOMAINS:
        raise GkdBenchError(f"sweep {records.sweep}: its source {source!r} is not a domain of this installation")
    found: DomainCard = DOMAINS.load(source).card
    return found
