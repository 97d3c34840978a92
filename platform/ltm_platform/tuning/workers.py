"""Ray Train's workers of one trial: started within it, and stopped when it ends in any way."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, assert_never

from ltm_platform.compat.ray_train import StopCallback, abort
from ltm_platform.errors import RunError
from ltm_platform.events import (
    ControllerStarted,
    Decided,
    EpochEnded,
    Failed,
    GaveUp,
    ImagesLeftOut,
    Measured,
    Profiled,
    Progress,
    Started,
    StoppedOnRequest,
    Waiting,
)
from ltm_platform.runs.driver import fit

if TYPE_CHECKING:
    from collections.abc import Generator

    from ltm_platform.checks import CheckedJob
    from ltm_platform.events import Event, EventQueue
    from ltm_platform.storage.run_folder import RunFolder

ABORT_TIMEOUT_S = 30.0


class _Reveal(StopCallback):
    """Sends the trial the handle that stops its workers."""

    def __init__(self, events: EventQueue) -> None:
        self._events = events

    def on_controller(self, handle: Any) -> None:
        self._events.put_nowait([ControllerStarted(handle)])

    def on_reservation(self, identity: str) -> None:
        """`fit` writes it down."""


class Workers:
    """Trains on workers in a thread; it is a listener of the events that they send."""

    def __init__(self) -> None:
        self._received: queue.SimpleQueue[EpochEnded | BaseException | None] = queue.SimpleQueue()
        self._controller: Any = None

    def __call__(self, event: Event) -> None:
        match event:
            case EpochEnded():
                self._received.put(event)
            case ControllerStarted():
                self._controller = event.handle
            case Progress() | Measured() | Started() | Waiting() | Decided():
                pass
            case ImagesLeftOut() | Profiled():
                pass
            case GaveUp() | StoppedOnRequest() | Failed():
                pass  # `recording` raises for these
            case _:
                assert_never(event)

    def epochs(
        self, checked: CheckedJob, folder: RunFolder, run_id: str, events: EventQueue
    ) -> Generator[EpochEnded, None, None]:
        """Train to the end. Closing the iterator earlier stops the workers at once.

        Raises:
            RunError: a rank failed, more often than the job allows.
        """
        threading.Thread(
            target=self._fit, args=(checked, folder, run_id, events), name="train", daemon=True
        ).start()
        try:
            while (received := self._received.get()) is not None:
                if isinstance(received, KeyboardInterrupt):
                    raise RunError("the workers were stopped") from received
                if isinstance(received, BaseException):
                    raise received
                yield received
        except GeneratorExit:
            abort(self._controller, ABORT_TIMEOUT_S)
            raise

    def _fit(self, checked: CheckedJob, folder: RunFolder, run_id: str, events: EventQueue) -> None:
        try:
            fit(checked, folder, run_id, events, [_Reveal(events)])
        except BaseException as error:
            self._received.put(error)
        else:
            self._received.put(None)
