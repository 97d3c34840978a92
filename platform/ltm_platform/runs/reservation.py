"""What a run has reserved on its Ray, and its release when Ray Train's controller was killed.

Ray keeps a reservation for as long as the job lives that made it: the driver, not the controller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_platform.compat.ray_core import remove_reservation
from ltm_platform.compat.ray_train import StopCallback

if TYPE_CHECKING:
    from pathlib import Path

_FILE = ".reservation"


class RecordReservation(StopCallback):
    """Writes down what is reserved, in the run's folder on the node of its driver."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_controller(self, handle: Any) -> None:
        """Not needed here."""

    def on_reservation(self, identity: str) -> None:
        (self._folder / _FILE).write_text(identity)


def free(folder: Path) -> None:
    """Release what the run in ``folder`` has reserved, if its controller was killed."""
    reserved = folder / _FILE
    if reserved.exists():
        remove_reservation(reserved.read_text())
        reserved.unlink()


def forget(folder: Path) -> None:
    """Ray Train itself has released it."""
    (folder / _FILE).unlink(missing_ok=True)
