"""How the user calls this program here, for commands that are to be typed next."""

from __future__ import annotations

import shlex
import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "ltm-platform"


def typed(words: Sequence[str]) -> Sequence[str]:
    """The command that runs here: on a cluster, what was typed where it was sent."""
    from ltm_platform.ray_cluster.jobs_api import Request

    request = Request.here()
    return request.typed if request else words


def program() -> list[str]:
    """The command's name if the shell finds it, else the way it was called."""
    if shutil.which(NAME):
        return [NAME]
    called = sys.argv[0]
    return ["python", called] if called.endswith(".py") else [called]


def way_on(run: str, *, has_checkpoint: bool) -> str:
    """What to type after a run that did not finish."""
    how = "go on from the last checkpoint" if has_checkpoint else "begin again"
    return f"{how} with: {shlex.join([*program(), 'resume', run])}"
