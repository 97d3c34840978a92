"""Ray's dashboard and its Jobs API, beside what the client of the latter offers."""

from __future__ import annotations

import logging

STOP_WAIT_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
"""In a job's own environment: seconds between its SIGTERM and its SIGKILL, 3 if it is not set."""
VERSION_PATH = "/api/version"
"""Of the dashboard: what answers as soon as it does."""
CLIENT_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_NO_AGENT = "No available agent"


def is_agent_missing(error: BaseException) -> bool:
    """Whether a head that has just started has no agent yet to start a job.

    The client raises RuntimeError for every answer but 200, with the server's words in it.
    """
    return _NO_AGENT in str(error)


def quiet_client() -> None:
    """Leave out what the client's modules log below warnings; call it after their import.

    Each sets a level of its own, which the level of the logger ``ray`` does not change.
    """
    for name in CLIENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
