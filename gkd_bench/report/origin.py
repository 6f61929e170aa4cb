"""Where the numbers of a report come from, in words that stand in every file of it."""

from __future__ import annotations

from gkd_bench.report.diagnostics import software_versions
from gkd_bench.report.frame import SweepRecords
from gkd_bench.report.selection import RULES

DISCLAIMER = (
    "Losses and FSD are a reconstruction from the published abstract and figures; none of these numbers is the paper's."
)


def origin_lines(records: SweepRecords) -> list[str]:
    """Where the numbers of a file come from: sweep, command, seeds, rule, machine, versions, and what they are not."""
    origin = records.origin
    rule = RULES.get(origin.rule)
    lines = [
        f"sweep: {records.sweep}",
        f"command: {origin.command or 'not recorded'}",
        f"seeds: {', '.join(map(str, records.seeds)) or 'none'} (n = {len(records.seeds)})",
        f"selection rule: {origin.rule}{f' ({rule.title})' if rule else ''}",
        *([f"machine: {origin.machine}"] if origin.machine else []),
        *(f"versions: {line}" for line in software_versions(records)),
        *(f"data: {domain} {print_}" for domain, print_ in sorted(origin.fingerprints.items())),
        *(f"domain {domain} left out: {reason}" for domain, reason in sorted(records.missing.items())),
    ]
    return [*(" ".join(line.split()) for line in lines), DISCLAIMER]
