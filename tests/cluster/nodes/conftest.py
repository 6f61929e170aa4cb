from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def wanted() -> None:
    """Skips the tests of whole machines, which take minutes, unless they are asked for."""
    if os.environ.get("GKD_TEST_MACHINES") != "1":
        pytest.skip("starts machines in network namespaces, for minutes; set GKD_TEST_MACHINES=1")


@pytest.fixture(scope="session")
def machines() -> None:
    """Skips the test where no machines can be made."""
    from hosts import unavailable

    if reason := unavailable():
        pytest.skip(reason)
