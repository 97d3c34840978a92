"""Retried calls to a store that may be unavailable: a server that restarts, a database in use."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from ltm.errors import first_line
from ltm_platform.compat.mlflow import is_deleted, is_full, is_unavailable
from ltm_platform.errors import UserError
from ltm_platform.interrupts import interrupts_held
from ltm_platform.storage import locations
from ltm_platform.storage.addresses import without_secrets
from ltm_platform.tracking import sqlite_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

OUTAGE_S = 600.0
"""How long a call waits for the store to come back."""
FULL_S = 60.0
"""How long at most one waits for room on the store's disk, which seldom comes by itself."""
LONGEST_PAUSE_S = 5.0

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class RetryingClient:
    """An MLflow client whose calls are retried while the store is unavailable, and whose refusals
    that a user can mend are sentences.

    Writing the same twice must do no harm: a call may have been executed although its answer
    was lost. The last error is raised when ``limit_s`` has passed.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        limit_s: float = OUTAGE_S,
        retried: Callable[[BaseException], bool] = is_unavailable,
    ) -> None:
        self._client = client
        self.uri = uri
        self.limit_s = limit_s
        """Seconds; a change also applies to calls that are waiting."""
        self._retried = retried

    def patient(self, limit_s: float = OUTAGE_S) -> RetryingClient:
        """The same store, which may be away for ``limit_s``, for whatever reason."""
        return RetryingClient(self._client, self.uri, limit_s)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, getattr(self._client, name))

    def call(
        self, work: Callable[Concatenate[MlflowClient, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What ``work`` returns of the client itself; it is called again as one call is."""
        return cast("T", self._call(work, self._client, *args, **kwargs))

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        retrying = Retrying(
            retry=retry_if_exception(self._retried),
            wait=wait_exponential(multiplier=0.2, max=LONGEST_PAUSE_S),
            stop=self._is_over,
            before_sleep=self._log_attempt,
            reraise=True,
        )
        try:
            return retrying(self._attempt, method, *args, **kwargs)
        except Exception as error:
            if told := refusal(error, self.uri):
                raise told from error
            raise

    def _attempt(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # A server may take its time, and has its transactions to itself.
        with interrupts_held() if sqlite_file.database_of(self.uri) else nullcontext():
            return method(*args, **kwargs)

    def _is_over(self, state: RetryCallState) -> bool:
        error = state.outcome and state.outcome.exception()
        limit_s = min(self.limit_s, FULL_S) if error and is_full(error) else self.limit_s
        return (state.seconds_since_start or 0.0) >= limit_s

    def _log_attempt(self, state: RetryCallState) -> None:
        assert state.outcome
        error = state.outcome.exception()
        assert error
        problem = without_secrets(first_line(error), self.uri)
        _log.warning("MLflow's store is away, attempt %d: %s", state.attempt_number, problem)


def refusal(error: Exception, uri: str) -> UserError | None:
    """The sentence for an error of the store that a user can mend; None for any other."""
    shown = locations.shown(uri)
    database = sqlite_file.database_of(uri)
    if database and (told := sqlite_file.refusal(error, database)):
        return told
    if is_deleted(error):
        return UserError(
            f"what the run is recorded in was deleted in MLflow's pages of {shown}: restore it "
            f"(mlflow runs restore, mlflow experiments restore), then resume the run"
        )
    if not is_unavailable(error):
        return None
    if database:
        reason = first_line(error.__cause__ or error)
        return UserError(f"the tracking store {shown} cannot be used: {reason}")
    return UserError(
        f"the tracking store {shown} does not answer: start it, or give the address of another "
        f"with --tracking-uri or MLFLOW_TRACKING_URI"
    )
