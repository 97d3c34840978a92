"""Events of a training run, and their way from rank 0 to the driver.

Rank 0 sends; the driver writes to MLflow and draws the screen. So the tracking store has a single
writer a run, and training never waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

SEND_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Started:
    """Training begins, or continues after ``steps_done`` optimizer steps."""

    epochs: int
    epochs_done: int
    steps: int
    """Optimizer steps of all epochs."""
    steps_done: int
    device: str
    workers: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The workers do not fit beside what others run on the cluster; they start when they do."""

    missing: str
    """What is missing, and how much of it is free."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Metrics at an optimizer step."""

    step: int
    epoch: int
    metrics: dict[str, float]
    time_ms: int = field(default_factory=lambda: int(time.time() * 1000))


@dataclass(frozen=True, slots=True)
class EpochEnded(Progress):
    """An epoch's summary, validation included; ``step`` is its last optimizer step."""


@dataclass(frozen=True, slots=True)
class Measured(Progress):
    """Figures of the finished network."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What the workers decided: shown on the screen, and a tag ``ltm.NAME`` in MLflow."""

    name: str
    value: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ImagesLeftOut:
    """Images that cannot be decoded: replaced by others in training, not counted in validation."""

    images: dict[str, list[str]]
    """By part of the data, a sentence for each that was met since training began."""

    @property
    def sentence(self) -> str:
        counts = [f"{len(found):,} {part}" for part, found in self.images.items() if found]
        return (
            f"images that cannot be decoded are left out ({' and '.join(counts)}): the artifact "
            "bad_images.json names them"
        )


@dataclass(frozen=True, slots=True)
class Profiled:
    """Steps of rank 0 were traced; these are the files of it, by name."""

    files: dict[str, bytes]
    sentence: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A part of the run failed; training goes on from the last checkpoint."""

    reason: str


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Training ended before its time, on all ranks together, and would again: no retry helps."""

    reason: str


@dataclass(frozen=True, slots=True)
class StoppedOnRequest:
    """Training saved a checkpoint and ended, since a stop was requested."""


@dataclass(frozen=True, slots=True)
class ControllerStarted:
    """Ray Train's actor that starts the workers has begun: through it they can be stopped."""

    handle: Any


Event = (
    Started
    | Waiting
    | Progress
    | EpochEnded
    | Measured
    | Decided
    | ImagesLeftOut
    | Profiled
    | Failed
    | GaveUp
    | StoppedOnRequest
    | ControllerStarted
)
"""A listener matches all of them, with `typing.assert_never` for the rest: so a new one is a type
error wherever it is not handled."""
Listener = Callable[[Event], None]


class EventQueue(Protocol):
    """Carries lists of events: Ray's `Queue` from one process to another, the standard library's
    `SimpleQueue` from one thread to another."""

    def put_nowait(self, item: Any) -> None: ...

    def get(self) -> Any:
        """Waits for the next."""


class Sender:
    """Rank 0's end: events are sent in batches and by a thread, so that no step waits for them.

    All but the steps' metrics is sent before the call returns, so that it arrives even if the
    process ends next. An error in sending is raised by a later call.
    """

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue
        self._pending: list[Event] = []
        self._thread = ThreadPoolExecutor(1, "event-sender")
        self._sent: Future[None] | None = None
        self._last_sent = time.monotonic()

    def __call__(self, event: Event) -> None:
        self._pending.append(event)
        due = time.monotonic() - self._last_sent >= SEND_INTERVAL_S
        if type(event) is not Progress:
            self.flush()
        elif due and (self._sent is None or self._sent.done()):
            self._send()

    def flush(self) -> None:
        """Send what is pending, and wait until all has been sent."""
        self._send()
        self._arrived()

    def close(self) -> None:
        """Send what is pending, and end the thread: an interrupt of `submit` may have hidden it
        from those that Python ends when the process does."""
        try:
            self.flush()
        finally:
            self._thread.shutdown(wait=False)

    def _send(self) -> None:
        self._arrived()
        if self._pending:
            self._sent = self._thread.submit(self._queue.put_nowait, self._pending)
            self._pending = []
        self._last_sent = time.monotonic()

    def _arrived(self) -> None:
        """Wait for what is being sent."""
        sent, self._sent = self._sent, None
        if sent:
            sent.result()


@contextmanager
def listening(queue: EventQueue, *listeners: Listener) -> Iterator[None]:
    """Hand every event to every listener, in order, from a thread, until the block ends.

    What was sent before the end of the block is handled before this returns. A listener's first
    error is raised at the end of the block, unless the block itself failed; until then all
    listeners are still called.
    """
    failures: list[Exception] = []

    def listen() -> None:
        try:
            while (events := queue.get()) is not None:
                for event, listener in product(events, listeners):
                    try:
                        listener(event)
                    except Exception as error:
                        failures.append(error)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=listen, name="run-events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        try:
            queue.put_nowait(None)  # marks the end, after all that was sent
        except Exception as error:
            failures.append(error)  # the queue is gone, and the thread has noticed it
        thread.join()
    if failures:
        raise failures[0]
