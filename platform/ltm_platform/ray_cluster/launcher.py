"""Ray's cluster launcher and its file, ``cluster.yaml``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ltm_platform.compat.ray_clusters import cluster_file_schema, failure_of, status_page
from ltm_platform.errors import UserError


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
    for problem in Draft7Validator(cluster_file_schema()).iter_errors(values):
        field = ".".join(map(str, problem.absolute_path)) or "the file"
        raise UserError(f"{path}: {field}: {problem.message}")
    return dict(values)


def up(path: Path, *, yes: bool) -> int:
    """Start the cluster of a file, or bring it up to date; the launcher's exit code."""
    return _change("up", path, yes=yes)


def down(path: Path, *, yes: bool) -> int:
    """End the cluster of a file; the launcher's exit code."""
    return _change("down", path, yes=yes)


def _change(verb: str, path: Path, *, yes: bool) -> int:
    read_cluster_file(path)
    if not yes and not sys.stdin.isatty():
        raise UserError(f"cluster {verb} asks before it goes on: where nobody can answer, give -y")
    return subprocess.run(_ray(verb, str(path), *["--yes"] * yes), check=False).returncode


def status(path: Path) -> str:
    """The output of ``ray status`` on the head of a file's cluster.

    Raises:
        UserError: there is none, or it cannot be reached; the sentence has the launcher's reason.
    """
    read_cluster_file(path)
    command = _ray("exec", str(path), "RAY_AUTH_MODE=token ray status")
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = failure_of(done.stdout + done.stderr) or "it does not answer"
        raise UserError(f"the cluster of {path} is not up: {reason}")
    return status_page(done.stdout)


def _ray(*args: str) -> list[str]:
    """Ray's own command line."""
    return [str(Path(sys.executable).with_name("ray")), *args]
