"""The command line in the test's own process, programs that race in others, stored weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from ltm_platform.cli.app import main

from .storage.sealing import seal


class Answer(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int | str | None
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def call_here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls the command line in this process, as one that has joined no Ray, whichever tests were
    before."""
    monkeypatch.setattr("ltm_platform.ray_cluster.attach.is_joined", lambda: False)

    def call(*args: str) -> Answer:
        capfd.readouterr()
        code: int | str | None = 0
        try:
            main(args)
        except SystemExit as end:
            code = end.code
        return Answer(code, *capfd.readouterr())

    return call


Race = Callable[..., list[str]]


@pytest.fixture
def race(tmp_path: Path) -> Race:
    """Runs a program once for each row of arguments, let go at the same moment; what they print.

    The program says "ready" in a line and then waits for one.
    """

    def run(program: str, *rows: tuple[str, ...]) -> list[str]:
        with ExitStack() as stack:
            processes = []
            for row in rows:
                process = subprocess.Popen(
                    [sys.executable, "-c", program, *row],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=tmp_path,
                )
                stack.callback(process.kill)
                processes.append(process)
            for process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            printed = [process.communicate(timeout=300)[0] for process in processes]
            assert [process.returncode for process in processes] == [0] * len(rows)
        return printed

    return run


MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """A checkpoint's folder of the quickstart with overrides and first weights; the moving average
    differs."""
    import torch
    from safetensors.torch import save_file

    from ltm_platform.job import JobSpec
    from ltm_platform.models import create_model
    from ltm_platform.storage.manifest import EMA_FILE, FILE_METADATA, JOB_FILE, WEIGHTS_FILE

    def make(*overrides: str, classes: int = 10, ema: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint")
        job = JobSpec.load("quickstart", overrides)
        (folder / JOB_FILE).write_text(job.to_yaml())
        for seed, file in enumerate((WEIGHTS_FILE, EMA_FILE) if ema else (WEIGHTS_FILE,)):
            torch.manual_seed(seed)
            model = create_model(job, classes)
            for name, parameter in model.named_parameters():
                if name.endswith("omega") or "head" in name:  # a step, and logits that differ
                    torch.nn.init.normal_(parameter)
            save_file(model.state_dict(), folder / file, FILE_METADATA)
        seal(folder, [path.name for path in folder.iterdir()])
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(ema=True)


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Sends SIGTERM, which interrupts as in a command. SIGINT is ignored in background jobs."""
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, usual)
