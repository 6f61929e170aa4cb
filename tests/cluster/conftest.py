from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
PATHS = [str(HERE), str(HERE.parents[1])]

sys.path[:0] = PATHS  # the stage runner of these tests has an import path of its own, here and in Ray's workers
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])
