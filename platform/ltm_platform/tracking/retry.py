"""Retried calls to a store that may be unavailable: a server that restarts, a database in use."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential

from ltm_platform.compat.mlflow import is_unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient

OUTAGE_S = 600.0
"""How long a call waits for the store to come back."""
LONGEST_PAUSE_S = 5.0

_log = logging.getLogger(__name__)


class RetryingClient:
    """An MLflow client whose calls are retried while the store is unavailable.

    Writing the same twice must do no harm: a call may have been executed although its answer
    was lost. The last error is raised when ``limit_s`` has passed.
    """

    def __init__(self, client: MlflowClient, limit_s: float = OUTAGE_S) -> None:
        self._client = client
        self.limit_s = limit_s
        """Seconds; a change also applies to calls that are waiting."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._call, getattr(self._client, name))

    def _call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        retrying = Retrying(
            retry=retry_if_exception(is_unavailable),
            wait=wait_exponential(multiplier=0.2, max=LONGEST_PAUSE_S),
            stop=self._is_over,
            before_sleep=_log_attempt,
            reraise=True,
        )
        return retrying(method, *args, **kwargs)

    def _is_over(self, state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0.0) >= self.limit_s


def _log_attempt(state: RetryCallState) -> None:
    assert state.outcome
    problem = str(state.outcome.exception()).splitlines()[0]
    _log.warning("MLflow's store is away, attempt %d: %s", state.attempt_number, problem)
