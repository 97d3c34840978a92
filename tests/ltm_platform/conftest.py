"""The command line within the test's own process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from ltm_platform.cli import main


class Answer(NamedTuple):
    """How a command ended, and what it wrote."""

    code: int | str | None
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def call_here(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str) -> Answer:
        capfd.readouterr()
        code: int | str | None = 0
        try:
            main(args)
        except SystemExit as end:
            code = end.code
        return Answer(code, *capfd.readouterr())

    return call
