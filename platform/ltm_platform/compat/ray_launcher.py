"""Ray's cluster launcher: the schema of its file, and what its commands print."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_SCHEMA = "autoscaler/ray-schema.json"
_ERROR = re.compile(r"^[\w.]+(?:Error|Exception): (.+?)\r?$", re.MULTILINE)
_PAGE = "======== "


def cluster_file_schema() -> dict[str, Any]:
    """The JSON schema (draft 7) of a cluster file, as the installed Ray checks it.

    Ray's own check comes with the clients of all clouds, and raises a wall of text.
    """
    spec = find_spec("ray")
    assert spec
    assert spec.submodule_search_locations
    found = Path(spec.submodule_search_locations[0]) / _SCHEMA
    return dict(json.loads(found.read_text()))


def failure_of(output: str) -> str | None:
    """The message of the exception that ended a launcher's command, which prints its traceback."""
    return next(reversed(_ERROR.findall(output)), None)


def status_page(output: str) -> str:
    """The output of ``ray status`` in that of ``ray exec``, without the launcher's own lines."""
    before, title, page = output.partition(_PAGE)
    return title + page if title else before
