"""Runs the checks of a conformance suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def run_checks(checks: Sequence[Callable[..., None]], *subject: object) -> None:
    """Run every check on the same subject. Raises AssertionError with one line for each check that failed."""
    failed = []
    for check in checks:
        try:
            check(*subject)
        except Exception as error:
            what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            failed.append(f"  {check.__name__}: {what}")
    if failed:
        raise AssertionError("\n".join([f"{len(failed)} of {len(checks)} checks failed:", *failed]))
