from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_random_moments() -> None:
    """A short run of tests/index/kill.py, in a process without threads; $FSEARCH_MOMENTS makes it a longer one."""
    command = [sys.executable, "-m", "tests.index.kill", "--moments", os.environ.get("FSEARCH_MOMENTS", "14")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    killed = re.search(r"moments, (\d+) killed", done.stdout)
    assert killed is not None
    assert int(killed[1]) >= 5  # the others had ended before
