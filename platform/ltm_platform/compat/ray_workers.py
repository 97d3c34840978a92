"""How Ray's node manager starts the processes of workers, and what such a process does first."""

from __future__ import annotations

import argparse
import importlib
import os
import runpy
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.compat.ray_core import package_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ray._private.runtime_env.context import RuntimeEnvContext

MANAGER_VARIABLE = "RAY_RAYLET_PID"
"""Of a worker's environment: the process id of its node manager. Ray's core reads it when it is
imported, and ends a worker whose node manager has ended."""
_MODULES = ("ray.actor", "ray._private.node", "ray._private.runtime_env.setup_hook", "ray.train")
"""What all workers of a training import."""


def own_program() -> Path:
    """Ray's program that a node manager starts a worker by; Ray is not imported."""
    return package_folder() / "_private" / "workers" / "setup_worker.py"


@contextmanager
def started_by(program: Path) -> Iterator[None]:
    """A node manager that this process starts in the block starts its workers by another program,
    with the same arguments. ``ray.init`` has no argument for it."""
    from ray._private import ray_constants

    before = ray_constants.SETUP_WORKER_FILENAME
    # joined to the folder of Ray's own: an absolute path is taken as it is
    vars(ray_constants)["SETUP_WORKER_FILENAME"] = str(program)
    try:
        yield
    finally:
        vars(ray_constants)["SETUP_WORKER_FILENAME"] = before


def import_ray() -> None:
    """With what workers need of it, and without beginning Ray's generator of random ids, which
    would give the same ids in all processes that are forked from this one."""
    with _ids_from_the_system():
        for name in _MODULES:
            importlib.import_module(name)


@contextmanager
def _ids_from_the_system() -> Iterator[None]:
    """In the block, the ids of actor classes, which Ray draws where one is defined."""
    actor = importlib.import_module("ray.actor")
    ids = actor.ActorClassID

    class FromTheSystem:
        @staticmethod
        def from_random() -> object:
            return ids(os.urandom(ids.size()))

    vars(actor)["ActorClassID"] = FromTheSystem
    try:
        yield
    finally:
        vars(actor)["ActorClassID"] = ids


def parsed(arguments: Sequence[str]) -> tuple[RuntimeEnvContext, list[str]] | None:
    """What a worker started by these has of a runtime environment, and the words of its program.

    None: it wants another interpreter or is none of Python's.
    """
    from ray._private.runtime_env.context import RuntimeEnvContext

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language", default="PYTHON")
    known, words = parser.parse_known_args(arguments)
    context = RuntimeEnvContext.deserialize(known.serialized_runtime_env_context)
    special = context.command_prefix or context.override_worker_entrypoint
    if special or known.language != "PYTHON" or context.py_executable != sys.executable:
        return None
    return context, words


def work(words: Sequence[str]) -> None:
    """Be the worker whose program and arguments these are; does not return."""
    sys.argv[:] = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")
