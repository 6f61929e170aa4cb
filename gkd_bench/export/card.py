"""The model card of an exported student: the card of the model registry, with what somebody needs who has only the files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gkd_bench.data.cache import PreparedDomain
from gkd_bench.data.domain import DomainCard
from gkd_bench.export.choice import Choice, is_adapted
from gkd_bench.export.compare import Difference
from gkd_bench.export.facts import INPUT, OUTPUT, Facts
from gkd_bench.export.snippet import snippet
from gkd_bench.report.cells import Cell, Column, Table
from gkd_bench.report.efficiency import efficiency_table
from gkd_bench.report.evidence import Evidence
from gkd_bench.report.extras import Student
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.model_card import Card, model_card
from gkd_bench.report.names import TEACHER, method_title, metric_column, metric_title
from gkd_bench.report.render import code, escape_markdown, to_markdown
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
        f"## Use\n\nA folder of {_inputs(facts)}, prepared and scored as in the benchmark (`pip install 'gkd-bench[export]'`):",
        f"```bash\ngkd-bench predict {shlex.quote(exported.folder)} {'VOLUMES' if facts.volumes else 'PHOTOS'} --output masks\n```",
        _masks(facts),
        f"Input `{INPUT}`: {facts.input_form}. Output `{OUTPUT}`: {facts.output_form}. Any batch; any height and width of at "
        f"least {facts.network.least_side} pixels.",
    ]
    if has_onnx:
        parts += [
            _alone(facts),
            f"```python\n{snippet(facts)}```",
        ]
    parts.append(
        "Intended for comparing how well light networks do on other scanners and hospitals, and as a starting point for "
        "research.\n"
    )
    return "\n\n".join(parts)


def _inputs(facts: Facts) -> str:
    if not facts.volumes:
        return "photographs"
    kind = {"ct": "CT volumes in Hounsfield units", "mr": "MR volumes"}.get(
        facts.modality, "volumes of 8-bit grey levels"
    )
    return f"{kind} as NIfTI files (.nii, .nii.gz; convert DICOM first, for example with `dcm2niix`)"


def _masks(facts: Facts) -> str:
    """What the masks hold."""
    names = facts.class_names
    one = f"1 is {names[0]}" if facts.volumes else f"255 is {names[0]}"
    values = one if len(names) == 1 else ", ".join(f"{number} is {name}" for number, name in enumerate(names, 1))
    where = "in the voxels of the volume, NIfTI" if facts.volumes else "in the pixels of the photograph, PNG"
    decided = f"from probability {facts.threshold:g}" if len(names) == 1 else "the most probable class"
    kept = "; of every class only the largest connected component is kept" if facts.largest_component else ""
    return f"Masks are {where}, 8 bits: 0 is background, {values} ({decided}{kept})."


def _alone(facts: Facts) -> str:
    """What stands over the snippet."""
    kept = " and of the largest component" if facts.largest_component else ""
    of = f"scores below are of overlapping windows of {facts.tile} pixels{kept}"
    if facts.volumes:
        return f"Without this package, every slice of a volume in one pass ({of}; the mask lies along nibabel's canonical axes):"
    return f"Without this package, one photograph in one pass ({of}; `factor` is for photographs like those of {facts.source}):"


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
    lines += [f"* {code(name)}: {code(value)}" for name, value in _options(settings).items()]
    return "## Method\n\n" + "\n".join(line for line in lines if line) + "\n"


def _options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The method's options and the training's settings that matter most, by their paths in a sweep file."""
    method = settings.get("method", "")
    found = {f"methods.{method}.{name}": value for name, value in dict(settings.get("options") or {}).items()}
    stage = dict(settings.get("distill") or {})
    found |= {f"stages.distill.{name}": stage[name] for name in ("epochs", "epoch_steps", "batch") if name in stage}
    return found | {f"augment.{name}": value for name, value in dict(settings.get("augment") or {}).items()}


def _data(exported: Exported) -> str:
    domain, card, records = exported.domain.manifest, exported.source, exported.choice.records
    people, counts = Evidence.of(records).words.subjects, []
    for split in _SPLITS:
        some = [one for one in domain.everything() if one.split == split]
        slices = sum(one.slices for one in domain.stacks if one.split == split)
        what = f"{len(some)} stacks with {slices} slices" if domain.stacks else f"{len(some)} images"
        counts.append(f"{what} of {len({one.subject for one in some})} {people} ({split})")
    lines = [
        f"* source: {escape_markdown(card.title)}; {', '.join(counts)}. Weights were fitted on the first, chosen on the second.",
        f"* seed of this training: {exported.facts.seed}; seeds of the sweep: {', '.join(map(str, records.seeds)) or 'none'}",
        f"* domains it was scored on: {', '.join(_scored(records)) or 'none'}; none but the source was seen by any training or selection",
        f"* terms of the source data: {escape_markdown(card.terms)}"
        + (f" ({escape_markdown(card.source)}). The data are not in this folder; whether weights fitted on them may be passed on is a matter of "
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
    """Constants of the source domain; of a data set of one's own what is known of any."""
    from gkd_bench.registry import DOMAINS

    if source not in DOMAINS:
        rows = records.of("domain")
        found_titles = rows.loc[rows["domain"] == source, "title"].dropna() if "title" in rows else ()
        title = next((str(one) for one in found_titles), source)
        return DomainCard(source, title, "the user's own", "not stated by its sweep", "")
    found: DomainCard = DOMAINS.load(source).card
    return found
