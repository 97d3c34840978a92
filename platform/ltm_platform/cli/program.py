"""How the user calls this program here, for commands that are to be typed next."""

from __future__ import annotations

import shutil
import sys

NAME = "ltm-platform"


def program() -> list[str]:
    """The command's name if the shell finds it, else the way it was called."""
    if shutil.which(NAME):
        return [NAME]
    called = sys.argv[0]
    return ["python", called] if called.endswith(".py") else [called]
