"""The log of a run on this machine, also while it is written."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.storage.run_folder import RunFolder

POLL_S = 0.3


def read(folder: RunFolder, *, follow: bool) -> Iterator[str]:
    """The log piece by piece; with ``follow`` until the run has ended."""
    with folder.log.open(errors="replace") as file:
        while True:
            # Checked first: what is written before the end is read after it.
            going_on = follow and folder.is_locked()
            while text := file.read(1 << 16):
                yield text
            if not going_on:
                return
            time.sleep(POLL_S)
