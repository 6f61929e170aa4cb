"""Made-up records of a sweep with every method, its controls, variants and a second student. No number means anything."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from gkd_bench.config.method_options import METHOD_OPTIONS
from gkd_bench.report.frame import Origin, SweepRecords

from .made_up import (
    DOMAINS,
    SEEDS,
    Record,
    base,
    efficiencies,
    evaluations,
    make_origin,
    model_key,
    stresses,
    trainings,
    trials,
)  # fmt: skip

SMALL = {"name": "mobile_unet", "width": 0.25}
VARIANTS: dict[str, dict[str, Any]] = {
    "bn_views": {"of": "bn_views", "set": {}, "control": True},
    "scratch_photometric": {"of": "scratch", "set": {"remedies": ["photometric"]}, "control": True},
    "kd_photometric": {"of": "kd", "set": {"remedies": ["photometric"]}, "control": True},
    "kd_adapted": {"of": "kd", "set": {"remedies": ["bn_adapt"]}},
    "gkd_intra": {"of": "gkd", "set": {"inter": 0.0, "cross": 0.0}},
    "scratch_small": {"of": "scratch", "set": {}, "student": SMALL},
    "gkd_small": {"of": "gkd", "set": {}, "student": SMALL},
}
SILENT = {("at", "attention"): 2e-5, ("gkd", "inter"): 1e-4}
"""(method, loss term) -> its gradient ratio; all others pull."""
RATIO, COSINE = 0.4, -0.05


def levels() -> dict[str, float]:
    """Method -> Dice: the teacher leads, a plain control is ahead of all methods, and the small student is worse alone."""
    methods = [name for name in METHOD_OPTIONS if name not in ("scratch", "bn_views")]
    spread = {name: 0.695 + 0.004 * (7 * at % len(methods)) / 4 for at, name in enumerate(methods)}
    fixed = {"teacher": 0.80, "baseline": 0.69, "scratch": 0.70, "bn_views": 0.701, "scratch_photometric": 0.76}
    more = {"kd_photometric": 0.73, "kd_adapted": 0.74, "gkd_intra": 0.70, "scratch_small": 0.60, "gkd_small": 0.66}
    return fixed | spread | more


def gradients(method: str, source: str, seed: int) -> Iterator[Record]:
    """Health of every loss term of one training."""
    of = str(VARIANTS.get(method, {}).get("of", method))
    options = METHOD_OPTIONS.get(of)
    labels = {**base("distill", method, source, None, seed, "train"), "record": "health", "host": None}
    for term in options.terms if options else ():
        ratio = SILENT.get((of, term), RATIO)
        warning = f"term {term!r} has next to no gradient" if ratio < 1e-3 else None
        facts = {"reference": 1.0, "ok": warning is None, "warning": warning}
        yield {**labels, "check": f"gradient ratio {term}", "value": ratio, **facts}
        yield {**labels, "check": f"gradient cosine {term}", "value": COSINE, **facts, "warning": None, "ok": None}


def epochs(method: str, source: str, seed: int) -> Iterator[Record]:
    """Loss terms and gradients by epoch."""
    options = METHOD_OPTIONS.get(str(VARIANTS.get(method, {}).get("of", method)))
    labels = base("distill", method, source, None, seed, "val")
    for epoch in range(1, 5):
        values = {"val/dice": 0.7 - 0.3 / epoch, "loss/ce": 1 / epoch}
        for term in options.terms if options else ():
            ratio = SILENT.get((method, term), RATIO) / epoch
            values |= {f"loss/{term}": 0.2 / epoch, f"grad_ratio/{term}": ratio, f"grad_cosine/{term}": COSINE}
        yield {**labels, "record": "epoch", "epoch": epoch, **values}


def searches() -> Iterator[Record]:
    """As many trials for every method as GKD had."""
    for record in trials():
        if record["record"] == "trial":
            for method, options in METHOD_OPTIONS.items():
                weights = {
                    f"methods.{method}.{field}": 0.1 * (record["number"] + 1) for field in options.terms.values()
                }
                if weights:
                    study = f"{record['source']} {method}"
                    params = json.dumps(weights, sort_keys=True)
                    yield {
                        **record,
                        "study": study,
                        "method": method,
                        "params": params,
                        "key": f"{study} {record['number']}",
                    }


def make_many(seeds: Sequence[int] = SEEDS, searched: bool = True, seed: int = 0) -> list[Record]:
    """Records of three sources and targets, every method, and the seeds that are asked for."""
    rng, scores = np.random.default_rng(seed), levels()
    scored = [*evaluations(rng, scores, seeds), *stresses(rng, scores, seeds), *trainings(4, scores, seeds)]
    students = [name for name in scores if name not in ("teacher", "baseline")]
    kept = [one for one in scored if one["record"] != "epoch" or one["method"] not in students]
    runs = list(product(students, DOMAINS, seeds))
    kept += [record for run in runs for record in (*epochs(*run), *gradients(*run))]
    small = {"role": "student mobile_unet x0.25", "network": "mobile_unet x0.25", "parameters": 5000, "macs": 6e5}
    costs = [*efficiencies()]
    kept += [*costs, {**costs[-1], **small, "key": "small", "model": "small", "method": small["role"]}]
    return [one for one in [*kept, *(searches() if searched else ())] if searched or one["trial"] is None]


def many_origin(**changes: Any) -> Origin:
    """An origin that fits: settings of every training, and a control that coincides with its base."""
    defaults = {name: options().model_dump(mode="json") for name, options in METHOD_OPTIONS.items()}
    settings: dict[str, Any] = {}
    for method, source, seed in product(levels(), DOMAINS, SEEDS):
        entry = VARIANTS.get(method, {"of": method, "set": {}})
        if entry["of"] in defaults:
            options = defaults[entry["of"]] | entry["set"]
            adapt = {"adapt": "batch_norm"} if "bn_adapt" in entry["set"].get("remedies", ()) else {}
            settings[model_key(method, source, seed)] = {"method": entry["of"], "options": options, **adapt}
    return make_origin(**{"variants": VARIANTS, "settings": settings, **changes})


def many_records(seeds: Sequence[int] = SEEDS, **origin: Any) -> SweepRecords:
    """The records as the report sees them."""
    return SweepRecords.from_dicts(make_many(seeds), many_origin(**origin))
