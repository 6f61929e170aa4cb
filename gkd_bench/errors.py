"""Every exception the package raises on purpose. Each message says what was wrong, where, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence


class GkdBenchError(Exception):
    """Base of all errors that are shown to the user as one plain message, without a traceback."""


class ConfigError(GkdBenchError):
    """A sweep file is wrong. Carries every problem found, one line each.

    Args:
        problems: one line per problem: path in the file, the value, what is allowed, the nearest valid name.
        source: the file the problems were found in.
    """

    def __init__(self, problems: Sequence[str], source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        head = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''} in {source or 'the sweep'}:"
        super().__init__("\n".join([head, *(f"  {line}" for line in self.problems)]))


class DataError(GkdBenchError):
    """A data set is missing, incomplete or broken. Carries every problem found, one line each.

    Args:
        problems: one line per file or subject.
        domain: name of the domain; empty where files are not known to be of one.
        advice: where the data set is officially obtained, its terms, and what to do.
    """

    def __init__(self, problems: Sequence[str], domain: str = "", advice: str = "") -> None:
        self.problems = tuple(problems)
        self.domain = domain
        self.advice = advice
        where = f"domain {domain}: " if domain else ""
        head = f"{where}{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__("\n".join([head, *(f"  {line}" for line in self.problems), *([advice] if advice else [])]))


class LeakError(GkdBenchError):
    """Training or selection code was handed data of a test split."""


class StoreError(GkdBenchError):
    """An artefact or record file is missing, torn or does not match its checksum."""


class StoreUnavailable(StoreError):
    """The store does not answer or takes nothing more: no stage can go on, and none has failed. The sweep stops."""


class LostArtefact(StoreError):
    """A published artefact is gone, torn or does not match its checksums.

    Args:
        key: of the artefact; once what is left of it is removed, the next run computes it again.
        message: which file, what is wrong, what to do.
    """

    def __init__(self, key: str, message: str) -> None:
        self.key = key
        super().__init__(key, message)

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[1])


class StageError(GkdBenchError):
    """A stage failed. The message names the stage, its labels and the cause."""


class OutOfMemory(StageError):
    """A stage had too little memory, or its worker group died of it: a smaller batch may help."""


class ClusterError(GkdBenchError):
    """The Ray session or a worker group could not be started or kept alive."""
