"""What is relied upon in how Ray starts its workers."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ray._private import node, ray_constants

from ltm_platform.compat import ray_workers


def test_the_program_is_found_in_its_folder_by_a_constant() -> None:
    assert ray_workers.own_program().name == ray_constants.SETUP_WORKER_FILENAME
    assert ray_workers.own_program().is_file()
    assert "ray_constants.SETUP_WORKER_FILENAME" in inspect.getsource(node.Node.__init__)


def test_it_is_another_one_for_the_block(tmp_path: Path) -> None:
    before = ray_constants.SETUP_WORKER_FILENAME
    with ray_workers.started_by(tmp_path / "mine.py"):
        found = Path("anywhere", ray_constants.SETUP_WORKER_FILENAME)
        assert found == tmp_path / "mine.py"
    assert before == ray_constants.SETUP_WORKER_FILENAME


def test_its_arguments_are_those_of_a_worker() -> None:
    program = ray_workers.own_program().read_text()
    assert "--serialized-runtime-env-context" in program
    assert "--language" in program
    found = ray_workers.parsed(["--language=PYTHON", "worker.py", "--node-id=1", "a b"])
    assert found
    context, words = found
    assert (context.env_vars, context.py_executable) == ({}, sys.executable)
    assert words == ["worker.py", "--node-id=1", "a b"]
    variables = json.dumps({"env_vars": {"A": "1"}})
    found = ray_workers.parsed([f"--serialized-runtime-env-context={variables}", "worker.py"])
    assert found
    assert found[0].env_vars == {"A": "1"}


@pytest.mark.parametrize(
    "words",
    [
        ["--language=JAVA"],
        ['--serialized-runtime-env-context={"py_executable": "another"}'],
        ['--serialized-runtime-env-context={"command_prefix": ["nsys", "profile"]}'],
        ['--serialized-runtime-env-context={"override_worker_entrypoint": "another.py"}'],
    ],
)
def test_what_is_no_worker_of_this_interpreter_is_told(words: list[str]) -> None:
    assert ray_workers.parsed([*words, "worker.py"]) is None


def test_the_core_reads_the_node_managers_process_id_once() -> None:
    core = Path(sys.modules["ray._raylet"].__file__ or "").read_bytes()
    assert ray_workers.MANAGER_VARIABLE.removeprefix("RAY_").encode() in core


TWINS = """
import os, threading
from ltm_platform.compat import ray_workers

os.environ[ray_workers.MANAGER_VARIABLE] = str(os.getpid())
ray_workers.import_ray()
import ray

def drawn_by_two():
    ids = []
    for _ in range(2):
        out, into = os.pipe()
        if os.fork() == 0:
            os.write(into, ray.ObjectID.from_random().binary())
            os._exit(0)
        os.close(into)
        with os.fdopen(out, "rb") as answer:
            ids.append(answer.read())
    return len(set(ids))

apart = drawn_by_two()
ray.ObjectID.from_random()
print(apart, drawn_by_two())
"""


def test_forked_processes_draw_ids_of_their_own_as_long_as_nothing_was_drawn_before() -> None:
    """Of two workers with the same id in the object store one dies, and the driver waits."""
    done = subprocess.run([sys.executable, "-c", TWINS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "1"], done.stdout + done.stderr
