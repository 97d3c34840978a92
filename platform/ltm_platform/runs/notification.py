"""Telling people that a run has ended, failed or been interrupted: a command, or an address."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ltm.errors import first_line
from ltm_platform.checks.notify import is_web_address
from ltm_platform.events import Failed
from ltm_platform.storage import locations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ltm_platform.events import Event
    from ltm_platform.job import JobSpec
    from ltm_platform.storage.run_folder import RunFolder

VARIABLE = "LTM_PLATFORM_NOTIFY"
"""In the place of ``tracking.notify``, for an address that is a secret."""
TIMEOUT_S = 30.0
"""For one notification; a run waits no longer for it."""
_TEXTS = {
    "finished": "has finished",
    "stopped": "was stopped",
    "failed": "has failed",
    "interrupted": "was interrupted and goes on from its last checkpoint",
}
What = Literal["finished", "stopped", "failed", "interrupted"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Notifier:
    """Sends what happens to one run, from a thread, one after the other."""

    target: str | None
    folder: RunFolder
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the run's end."""
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def heard(self, event: Event) -> None:
        """A part of the run failed, or its machine was preempted."""
        if isinstance(event, Failed):
            self.send("interrupted", event.reason)

    def send(self, event: What, reason: str = "") -> None:
        """A failure to do so is logged, and is none of the run's."""
        if self.target is None:
            return
        name = self.folder.name
        text = f"{name} {_TEXTS[event]}" + (f": {reason}" if reason else "")
        message = {
            "text": text,
            "run": name,
            "event": event,
            "reason": reason,
            "metrics": {**self.metrics},
            "host": platform.node(),
            "folder": locations.shown(self.folder.path),
        }
        self._thread.submit(_deliver, self.target, json.dumps(message))

    def close(self) -> None:
        self._thread.shutdown()


@contextmanager
def notifying(job: JobSpec, folder: RunFolder) -> Iterator[Notifier]:
    """Tell how the block ends."""
    notifier = Notifier(job.tracking.notify or os.environ.get(VARIABLE), folder)
    try:
        yield notifier
        top1 = notifier.metrics.get("val/top1")
        notifier.send("finished", "" if top1 is None else f"top-1 {top1:.2f} %")
    except (KeyboardInterrupt, SystemExit):
        notifier.send("stopped")
        raise
    except BaseException as error:
        notifier.send("failed", first_line(error))
        raise
    finally:
        notifier.close()


def _deliver(target: str, message: str) -> None:
    try:
        if is_web_address(target):
            request = urllib.request.Request(
                target, message.encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                pass
        else:
            subprocess.run(
                shlex.split(target),
                input=message,
                text=True,
                timeout=TIMEOUT_S,
                check=True,
                start_new_session=True,  # Ctrl-C is not its to hear
            )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # Not the address, which may be a secret.
        _log.warning("a notification could not be sent: %s", type(error).__name__)
