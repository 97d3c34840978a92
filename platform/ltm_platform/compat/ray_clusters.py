"""Ray on a cluster: its dashboard, the Jobs API, and the launcher's file and what it prints."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from ltm_platform.compat.ray_core import package_folder

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
_SCHEMA = "autoscaler/ray-schema.json"
_ERROR = re.compile(r"^[\w.]+(?:Error|Exception): (.+?)\r?$", re.MULTILINE)
_PAGE = "======== "


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


def cluster_file_schema() -> dict[str, Any]:
    """The JSON schema (draft 7) of a cluster file, as the installed Ray checks it.

    Ray's own check comes with the clients of all clouds, and raises a wall of text.
    """
    found = package_folder() / _SCHEMA
    return dict(json.loads(found.read_text()))


def failure_of(output: str) -> str | None:
    """The message of the exception that ended a launcher's command, which prints its traceback."""
    return next(reversed(_ERROR.findall(output)), None)


def status_page(output: str) -> str:
    """The output of ``ray status`` in that of ``ray exec``, without the launcher's own lines."""
    before, title, page = output.partition(_PAGE)
    return title + page if title else before
