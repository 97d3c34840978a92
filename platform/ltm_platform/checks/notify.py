"""Who is told of a run's end: that there is such a program."""

from __future__ import annotations

import shlex
import shutil
from typing import TYPE_CHECKING

from ltm.errors import first_line, quoted

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec


def is_web_address(target: str) -> bool:
    """Whether ``tracking.notify`` is an address that is posted to, and no command."""
    return target.startswith(("http://", "https://"))


def check_notify(job: JobSpec) -> None:
    """Check that the command of ``tracking.notify`` is there.

    Raises:
        UserError: it is not.
    """
    key, target = "tracking.notify", job.tracking.notify
    if target is None or is_web_address(target):
        return
    try:
        program = [*shlex.split(target), ""][0]
    except ValueError as error:  # a quote is open
        raise job.error(key, f"{key} is {quoted(target)}, but {first_line(error)}") from None
    if shutil.which(program) is None:
        raise job.error(
            key,
            f"{key} is {quoted(target)}, but must be an http or https address, or a command: there "
            f"is no program {quoted(program)}",
        )
