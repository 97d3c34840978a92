"""What a job is asked before it runs leaves the process as it was."""

from __future__ import annotations

import os
import subprocess
import sys

VALIDATE = """
import os
before = dict(os.environ)
from ltm_platform import api
assert api.validate("quickstart").model.method == "ltm"
assert os.environ == before, set(os.environ) ^ set(before)
"""


def test_validating_sets_no_environment_variable_for_good() -> None:
    """In a new process: torch sets some when a network is first built."""
    free = {key: value for key, value in os.environ.items() if "INDUCTOR" not in key}
    subprocess.run([sys.executable, "-c", VALIDATE], env=free, check=True)
