"""README and docs as data: their blocks of code, and the commands that they show."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
        *(ROOT / "docs").glob("*.md"),
    ]
)
PROGRAMS = ("ltm-platform", "make", "python benchmarks/", "python docs/", "python cli.py")

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(
    r"(?<![\w/.'-])(?:\.venv/bin/)?"
    r"(ltm-platform(?= [\w-])|make(?= \w)|python (?=benchmarks/|docs/|cli\.py))(.*)"
)


@dataclass(frozen=True)
class Block:
    """Code of one page; an indented block has no language."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command line as a page shows it, without comments and prompts."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks() -> Iterator[Block]:
    """All blocks of code, in order of the pages."""
    for path in PAGES:
        page, text = str(path.relative_to(ROOT)), path.read_text()
        for language, body in _FENCED.findall(text):
            yield Block(page, language, body)
        for body in _indented(_FENCED.sub("", text)):
            yield Block(page, "", body)


def block(page: str, language: str, containing: str) -> str:
    """The only block of a page with these words in it."""
    found = [one for one in blocks() if (one.page, one.language) == (page, language)]
    (text,) = [one.text for one in found if containing in one.text]
    return text


def commands() -> list[Command]:
    """Every command of ours that a page shows, in a block or within a sentence, once a page."""
    found = []
    for one in blocks():
        if one.language not in ("python", "diff"):
            for line in one.text.replace("\\\n", " ").splitlines():
                found += _commands(one.page, line)
    for path in PAGES:
        prose = _FENCED.sub("", path.read_text())
        for span in re.findall(r"`([^`\n]+)`", prose):
            if span.startswith(tuple(f"{name} " for name in PROGRAMS[:2]) + PROGRAMS[2:]):
                found += _commands(str(path.relative_to(ROOT)), span)
    return list(dict.fromkeys(found))


def _commands(page: str, line: str) -> Iterator[Command]:
    for program, rest in _COMMAND.findall(line):
        words = shlex.split(program + rest, comments=True)
        yield Command(page, tuple(word for word in words if word != "..."))


def _indented(text: str) -> Iterator[str]:
    """Blocks that are indented by four spaces, outside of lists."""
    for code, lines in groupby(text.splitlines(), lambda line: line.startswith("    ")):
        if code:
            yield "\n".join(line[4:] for line in lines) + "\n"
