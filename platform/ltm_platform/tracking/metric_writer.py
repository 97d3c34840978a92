"""Writes a run's metrics and tags to the store, in the background."""

from __future__ import annotations

import threading
import time
from collections import deque
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, TypeAlias

from ltm_platform.compat.mlflow import is_full, is_unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlflow.entities import Metric, RunTag

    from ltm_platform.tracking.retry import RetryingClient

    Row: TypeAlias = Metric | RunTag

METRICS_PER_BATCH = 1000  # what MLflow's stores accept at once
TAGS_PER_BATCH = 100
INTERVAL_S = 1.0
"""Between batches, unless a caller waits for them: many rows cost hardly more than one."""
LONGEST_INTERVAL_S = 30.0
SHARE = 0.01
"""Of the time that writing may take: where it is slow, for the machine is busy, it comes seldom."""


class Outbox:
    """Metrics and tags of one run: taken at once, written in order by a thread, many at a time.

    While the store is unavailable they stay in this queue, without a limit, and block no caller.
    """

    def __init__(self, client: RetryingClient, run_id: str) -> None:
        self._client = client.patient(inf)
        self._run_id = run_id
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._flushing = 0
        self._hurried = False
        self._closed = False
        self._error: Exception | None = None
        self.is_full = False
        """Whether what was last to be written found no room on the store's disk."""
        self._thread = threading.Thread(target=self._write, name="run-outbox", daemon=True)
        self._thread.start()

    def put(self, rows: Iterable[Row]) -> None:
        with self._changed:
            idle = not self._waiting
            self._waiting.extend(rows)
            if idle:  # else the thread knows, and to wake it would take time from training
                self._changed.notify_all()

    def hurry(self) -> None:
        """Have what is queued written without a pause; the call returns at once."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()

    def flush(self, limit_s: float) -> int:
        """Wait until everything is written, at most ``limit_s``, or the store's disk is known to be
        full; how many rows still wait.

        Raises:
            MlflowException: the store refused something, now or earlier. The rest was written.
        """
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting or self.is_full, timeout=limit_s)
            self._flushing -= 1
            if self._error:
                error, self._error = self._error, None
                raise error
            return len(self._waiting)

    def close(self) -> list[Row]:
        """Write nothing more; what still waits."""
        with self._changed:
            self._closed = True
            self._client.limit_s = 0.0
            self._changed.notify_all()
            return list(self._waiting)

    def _write(self) -> None:
        pause_s = INTERVAL_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._changed.wait_for(self._is_urgent, pause_s)
                if self._closed:
                    return
                rows = list(islice(self._waiting, METRICS_PER_BATCH))
            batch = _batch(rows)
            began = time.monotonic()
            error = self._log(batch)
            pause_s = _pause(time.monotonic() - began)
            away = error is not None and is_unavailable(error)
            with self._changed:
                self.is_full = error is not None and is_full(error)
                if not away:
                    for _ in batch:
                        self._waiting.popleft()
                    self._error = self._error or error
                self._hurried = self._hurried and bool(self._waiting)
                self._changed.notify_all()

    def _is_urgent(self) -> bool:
        return bool(self._flushing or self._hurried or self._closed)

    def _log(self, batch: list[Row]) -> Exception | None:
        from mlflow.entities import Metric, RunTag

        metrics = [row for row in batch if isinstance(row, Metric)]
        tags = [row for row in batch if isinstance(row, RunTag)]
        try:
            self._client.log_batch(self._run_id, metrics=metrics, tags=tags)
        except Exception as error:
            return error
        return None


def _pause(writing_s: float) -> float:
    return min(max(INTERVAL_S, writing_s / SHARE), LONGEST_INTERVAL_S)


def _batch(rows: list[Row]) -> list[Row]:
    """As many of the first rows as the store takes at once; a tag that comes again waits."""
    from mlflow.entities import RunTag

    tags: set[str] = set()
    for index, row in enumerate(rows):
        if isinstance(row, RunTag):
            if row.key in tags or len(tags) == TAGS_PER_BATCH:
                return rows[:index]
            tags.add(row.key)
    return rows
