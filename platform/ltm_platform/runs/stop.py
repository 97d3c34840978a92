"""Ending a run of this machine before its time."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from ltm_platform.storage.run_folder import RunFolder

POLL_S = 0.2


def stop(folder: RunFolder, *, now: bool, wait: bool = True) -> None:
    """Have the run save and end, or with ``now`` end at once, and ``wait`` until it has ended.

    A sweep has no checkpoint of its own and always ends at once.

    Raises:
        UserError: it is not running.
    """
    pid = folder.pid
    if folder.owner != folder:
        sweep = folder.owner.name
        raise UserError(f"{folder.name!r} is a trial: stop its sweep (ltm-platform stop {sweep})")
    if pid is None:
        raise UserError(f"the run {folder.name!r} is not going on: there is nothing to stop")
    if now or folder.is_sweep:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    else:
        folder.request_stop()
    while wait and folder.pid == pid:
        time.sleep(POLL_S)
