"""Groups of ranks that stay alive, forked from one process: what they import is imported once.

`RankPool` is the test's end. This file is also the program of the process that forks:

    python -m tests.ltm_platform.training.rank_pool DESCRIPTOR FOLDER
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist

TIMEOUT_S = 300.0
GRACE_S = 2.0
"""For the other ranks, after one has failed, to fail as well; for all to exit at the end."""

Scenario = Callable[..., Any]


class ScenarioError(Exception):
    """A scenario failed: what every rank said."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a scenario ended on one rank."""

    saved: bytes = b""
    """What it returned, by `torch.save`."""
    error: str = ""


@dataclass
class RankPool:
    """Runs scenarios in groups of ranks with gloo, without Ray.

    A scenario is a function of a module, which every rank of a group calls with the same arguments
    and which returns what `torch.load` can read. Its answer is kept: tests share it. A group in
    which one failed, or took too long, is ended, and the next scenario has a new one.
    """

    folder: Path
    _answers: dict[tuple[int, str], list[Answer]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._ranks, there = Pipe()
        self._log = (self.folder / "ranks.log").open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(there.fileno()), str(self.folder)],
            # the test's own search path, so that it holds for a checkout and for an installation
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            pass_fds=[there.fileno()],
        )
        there.close()

    def run(
        self, workers: int, scenario: Scenario, *arguments: Any, timeout_s: float = TIMEOUT_S
    ) -> list[Any]:
        """What the scenario returned, by rank.

        Raises:
            ScenarioError: it raised on a rank, a rank died, or it took longer than ``timeout_s``.
        """
        key = workers, f"{scenario.__module__}.{scenario.__qualname__} {arguments}"
        if key not in self._answers:
            try:
                self._ranks.send((workers, scenario, arguments, timeout_s))
                self._answers[key] = self._ranks.recv()
            except (EOFError, BrokenPipeError):
                said = (self.folder / "ranks.log").read_text()[-5000:]
                raise ScenarioError(
                    f"{key[1]}\nthe process that forks ranks ended:\n{said}"
                ) from None
        errors = [f"rank {n}: {one.error}" for n, one in enumerate(self._answers[key]) if one.error]
        if errors:
            raise ScenarioError("\n".join([key[1], *errors]))
        return [torch.load(BytesIO(one.saved)) for one in self._answers[key]]

    def close(self) -> None:
        """End all ranks."""
        self._ranks.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


class _Group:
    """Ranks that wait for scenarios."""

    def __init__(self, folder: Path, workers: int) -> None:
        meeting = folder / uuid4().hex
        context = get_context("fork")
        self._ranks: list[Connection] = []
        self._processes = []
        for rank in range(workers):
            here, there = Pipe()
            arguments = (there, f"file://{meeting}", rank, workers)
            process = context.Process(target=_serve_rank, args=arguments, daemon=True)
            process.start()
            there.close()
            self._ranks.append(here)
            self._processes.append(process)

    def run(self, scenario: Scenario, arguments: Any, timeout_s: float) -> list[Answer]:
        for rank in self._ranks:
            rank.send((scenario, arguments))
        answers = [Answer(error=f"no answer within {timeout_s:g} s") for _ in self._ranks]
        waiting = set(self._ranks)
        deadline = time.monotonic() + timeout_s
        while waiting and (ready := wait(waiting, deadline - time.monotonic())):
            for rank in ready:
                assert isinstance(rank, Connection)
                try:
                    answer = rank.recv()
                except EOFError:
                    answer = Answer(error="its process ended")
                answers[self._ranks.index(rank)] = answer
                waiting.discard(rank)
                if answer.error:
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        return answers

    def end(self) -> None:
        """Let all ranks exit, so that what they ran is measured; kill those that hang."""
        for rank in self._ranks:
            with suppress(OSError):  # it died
                rank.send(None)
        deadline = time.monotonic() + GRACE_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
            process.kill()
            process.join()
        for rank in self._ranks:
            rank.close()


def _serve_rank(scenarios: Connection, meeting: str, rank: int, workers: int) -> None:
    """The life of a rank, in an environment as Ray Train would give."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(workers)}
    # DeepSpeed wants to see them; nobody connects.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=workers)
    with suppress(EOFError):
        while (asked := scenarios.recv()) is not None:
            scenario, arguments = asked
            saved = BytesIO()
            try:
                torch.save(scenario(*arguments), saved)
                answer = Answer(saved.getvalue())
            except Exception:
                answer = Answer(error=traceback.format_exc())
            scenarios.send(answer)


def serve(tests: Connection, folder: Path) -> None:
    """Fork groups as they are asked for, until the tests have ended."""
    from ltm_platform.compat.deepspeed import import_deepspeed

    import_deepspeed()
    groups: dict[int, _Group] = {}
    with suppress(EOFError):
        while True:
            workers, scenario, arguments, timeout_s = tests.recv()
            if workers not in groups:
                groups[workers] = _Group(folder, workers)
            answers = groups[workers].run(scenario, arguments, timeout_s)
            if any(answer.error for answer in answers):
                groups.pop(workers).end()
            tests.send(answers)
    for group in groups.values():
        group.end()


if __name__ == "__main__":
    from tests.ltm_platform.training.rank_pool import serve as serve_tests

    serve_tests(Connection(int(sys.argv[1])), Path(sys.argv[2]))
