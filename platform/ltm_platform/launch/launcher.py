"""Ray's cluster launcher and its file, ``cluster.yaml``."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ltm_platform.errors import UserError

SCHEMA = "autoscaler/ray-schema.json"


def read_cluster_file(path: Path) -> dict[str, Any]:
    """A cluster file that fits Ray's own schema.

    Raises:
        UserError: there is none, or it does not fit; the sentence names the first field.
    """
    from jsonschema import Draft7Validator

    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist: copy the cluster.yaml of ltm-platform's repository, or keep "
            f"a Ray on this machine with: ltm-platform cluster up --local"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} is no cluster file: {str(error).splitlines()[0]}") from None
    for problem in Draft7Validator(schema()).iter_errors(values):
        field = ".".join(map(str, problem.absolute_path)) or "the file"
        raise UserError(f"{path}: {field}: {problem.message}")
    return dict(values)


def schema() -> dict[str, Any]:
    """Ray's, as installed."""
    spec = find_spec("ray")
    assert spec
    assert spec.submodule_search_locations
    found = Path(spec.submodule_search_locations[0]) / SCHEMA
    return dict(json.loads(found.read_text()))


def run_ray(*args: str) -> int:
    """Ray's own command line in the foreground; its exit code."""
    ray = Path(sys.executable).with_name("ray")
    return subprocess.run([str(ray), *args], check=False).returncode
