"""Whether what reads damaged files ends as it should: with a result, or in one sentence."""

from __future__ import annotations

import traceback
import warnings
from typing import TYPE_CHECKING, TypeVar

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..report import Outcome

T = TypeVar("T")

LONGEST, MOST_LINES = 600, 20
"""Letters of a line of a refusal, in which paths are long, and lines: jobs have many faults."""


def judge(read: Callable[[], T], outcome: Outcome, what: str) -> T | None:
    """The result; None where it is refused in a sentence, or where that is a fault, which is noted.

    A ``read`` that returns None has passed as `True`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of files with bytes at their end
            result = read()
    except UserError as error:
        outcome.faults += [f"{what}: {wrong}" for wrong in _wrong(str(error))]
        outcome.story.append(f"{what}: {str(error)[:300]}")
        return None
    except Exception as error:
        outcome.story += traceback.format_exc().splitlines()[-12:]
        outcome.faults.append(f"{what} ends in {type(error).__name__}: {str(error)[:200]}")
        return None
    outcome.story.append(f"{what}: read")
    return True if result is None else result  # type: ignore[return-value]


def _wrong(sentence: str) -> list[str]:
    """What is not as it should be in a refusal."""
    longest = max(map(len, sentence.split("\n")))
    if longest > LONGEST:
        return [f"a refusal has {longest} letters: {sentence[:100]}"]
    if any(not letter.isprintable() and letter != "\n" for letter in sentence):
        return [f"a refusal has control characters: {sentence[:100]!r}"]
    if sentence.count("\n") >= MOST_LINES:
        return [f"a refusal has {sentence.count(chr(10))} lines: {sentence[:100]!r}"]
    if not sentence.strip():
        return ["a refusal says nothing"]
    return []
