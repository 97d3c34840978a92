"""Damaged jobs: each is taken, or refused in bounded sentences; anything else is a fault.

A mutant is a job file with some `--set` overrides and some `--param` of a sweep. All of it is drawn
from a seed and a number, so that a fault can be had again.
"""

from __future__ import annotations

import random
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm_platform import checks
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.tuning.params import read_params

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_LINE = 1300
MOST_LINES = 21
LONGEST_NAME = 60
LONGEST_S = 10.0
"""A refusal that takes longer is one that a user gives up on."""
SMALL = ("vit_nano_patch4_32", "vit_micro_patch4_32", "swin_nano_patch2_window4_32")
"""Backbones whose network is built, too."""

GOOD = """\
model:
  backbone: vit_nano_patch4_32
  method: ltm
  compression_ratio: 0.7
data:
  path: digits
recipe:
  epochs: 2
  global_batch: 64
  lr: 2e-3
cluster:
  workers: 2
"""
SCALARS = (
    *("", "~", "null", "true", "no", "''", '""', "0", "-0", "-1", "1", "2", "3", "0.5", "1.5"),
    *("1e-300", "5e-324", "1e30", "1e308", "1e400", "-1e308", ".inf", "-.inf", ".nan", "0x10"),
    *("0o17", "1_000", "12:30", "2001-01-01", "9" * 30, "9" * 400, "9" * 5000, "4096", "1048576"),
    *("10 ", " x", "'1'", "ten", "auto", "null null", "ä", "\u202e", "\u2028", "\ufeff", "🐈" * 50),
    *('"\\0"', '"\\e[2J"', '"\\ud800"', '"\\UFFFFFFFF"', '"\\x"', '"\\u12"', "x" * 5000, "a.b.c"),
    *("[]", "{}", "[[]]", "[1, 2]", "[2, 1]", "[0.1, 0.9]", "[.nan, 1]", "[1, 2, 3]", "[a, b]"),
    *("{a: 1}", "{a: {b: {c: 1}}}", "{1: 2}", "{[1]: 2}", "{? {a: 1} : 2}", "{'': 1}", "{a.b: 1}"),
    *("*a", "&a 1", "&a [*a]", "!!int x", "!!str 1", "!!float 1", "!!null x", "!!bool 1", "!x y"),
    *(
        "!!python/object/apply:os.system [id]",
        "!!python/name:os.system",
        "!!binary aGk=",
        "!!set {a}",
    ),
    *("!!timestamp 2001-01-01", "!!omap [a: 1]", "<<", "|\n  x\n", ">-\n  y", "@x", "`x`", "%x"),
    *(
        "[" * 40 + "]" * 40,
        "{a: " * 40 + "1" + "}" * 40,
        "[" * 5000,
        "- 1",
        "? a",
        ": b",
        "# c",
        "--",
    ),
    *("/etc/shadow", "/dev/zero", "/proc/self/mem", "..", ".", "~", "~nobody/x", "s3://u:p@b/x"),
    *(
        "s3://",
        "http://",
        "file:///",
        "x://y",
        "${HOME}",
        "$(id)",
        "`id`",
        "%s",
        "{}",
        "\\",
        "digits ",
    ),
    *("vit_nano_patch4_32.foo", "vit_nano_patch4_32.", ".", "ltm_vit_s", "vit_s.x.y", "resnet50"),
    *("none", "tome", "tofu", "ltmp", "spvit", "dtem", "pitome", "savit", "s2vite", "cubistmerge"),
    *("fusedadam", "fusedlamb", "bnbadamw8bit", "adahessian", "lookahead_adam", "sgd", "muon"),
    *(
        "rand-m9",
        "rand-m9-n999999999",
        "rand-mx",
        "augmix-m5-w4-d2",
        "3a",
        "original-mstd0.5",
        "rand-",
    ),
)
TOO_LARGE = "\n".join(
    ["l0: &l0 x", *(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9))]
)
STRUCTURES = (
    *(
        TOO_LARGE,
        "---\na: 1\n---\nb: 2\n",
        "%YAML 9.9\n---\n",
        "%TAG ! x\n",
        "<<: {recipe: {epochs: 1}}\n",
    ),
    *(
        "a: &a\n  b: 1\nrecipe:\n  <<: *a\n",
        "model: &m {backbone: x}\ndata: *m\n",
        "? [1, 2]\n: 3\n",
    ),
    *(
        "recipe: {epochs: 1}\nrecipe: {epochs: 2}\n",
        "recipe.epochs: 3\n",
        "1: 2\n",
        "~: x\n",
        "'': 1\n",
    ),
    *(
        "recipes: {}\n",
        "epochs: 3\n",
        "extend: x\n",
        "x" * 70_000 + ": 1\n",
        '"\\e[2J": 1\n',
        "\t: 1\n",
    ),
    *(
        "".join(f"k{i}: {i}\n" for i in range(2000)),
        "- 1\n",
        "...\n",
        "!!map {a: 1}\n",
        "!!set {a}\n",
    ),
    *("name: A\n", "name: ..\n", "name: [x]\n", "model: null\n", "data: null\n", "recipe: null\n"),
)
PATHS = (
    *("quickstart", "quickstrat", "job.yaml", ".", "..", "/", "''", "nowhere.yaml", "/etc/passwd"),
    *("/etc/shadow", "/dev/zero", "/dev/null", "/proc/self/mem", "/proc/self/environ", "/bin/sh"),
    *(
        '"a\\0b"',
        '"a\\nb"',
        '"\\ud800"',
        "x" * 5000,
        "~root/x",
        "[a]",
        "{a: b}",
        "5",
        "true",
        "~",
        "''",
    ),
)
FORMS = (
    *("", "0:1", "1:0", "log:0:1", "log:1e-5:1e-2", "1:2:3", "choice:", "choice:a", "choice:a,a"),
    *("grid:1,2", "grid:[1,2]", "grid:{}", ".nan:1", "-.inf:.inf", "0:1e400", "1e-400:1", "2:4"),
    *(
        "choice:*a",
        "choice:'",
        "choice:!!python/x y",
        "grid:null,~",
        f"grid:{'9' * 5000},1",
        "\x1b:\0",
    ),
    *(
        f"choice:{'x' * 9000}",
        "log:",
        ":",
        "::",
        "lin:1:2",
        "choice:true,false",
        "grid:1e308,-1e308",
    ),
)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A job as a user could give it."""

    text: bytes
    """The job file."""
    overrides: tuple[str, ...] = ()
    params: tuple[str, ...] = ()


def mutations(seed: int, n: int, first: int = 0) -> Iterator[Mutant]:
    """The mutants ``first`` to ``first + n - 1`` of a seed."""
    for number in range(first, first + n):
        yield _mutant(random.Random(f"{seed}-{number}"))


def check(mutant: Mutant, folder: Path | None = None) -> str | None:
    """What is wrong with the way in which a job is taken or refused; None if nothing is.

    ``folder``: for the job file; a temporary one where it is None.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="campaign-job-") as temporary:
            return check(mutant, Path(temporary))
    _import_everything()
    file = folder / "job.yaml"
    file.write_bytes(mutant.text)
    began, fault = time.monotonic(), None
    try:
        _take(file, mutant)
    except UserError as error:
        fault = _fault_of(error)
    except RecursionError as error:
        fault = f"RecursionError: {error}"
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        fault = f"{type(error).__name__} at {where}: {str(error)[:200]}"
    took = time.monotonic() - began
    return fault or (f"took {took:.1f} s" if took > LONGEST_S else None)


@cache
def _import_everything() -> None:
    """The first job takes seconds longer than others."""
    job = JobSpec.load("quickstart")
    checks.check_job(job)
    checks.check_network(job, 10)


def _take(file: Path, mutant: Mutant) -> None:
    """All that is checked of a job without a look at the data or the machine."""
    job = JobSpec.load(file, mutant.overrides)
    if mutant.params:
        read_params(mutant.params, job, lambda: (["blocks.0", "blocks.1"], ["blocks.0"]))
    checks.check_job(job)
    if job.model.backbone in SMALL:
        checks.check_network(job, 10)
    file.write_text(job.to_yaml(), encoding="utf-8")
    again = JobSpec.load(file)
    assert again == job, "the job is another one when it is stored"
    assert all(str(value).encode() is not None for value in job.flat().values())


def _fault_of(error: UserError) -> str | None:
    lines = str(error).split("\n")
    if len(lines) > MOST_LINES:
        return f"{len(lines)} lines"
    for line in lines:
        if not line.strip() or not line.isprintable():
            return f"a line that is not printable: {line[:80]!r}"
        if len(line) > LONGEST_LINE:
            return f"a line of {len(line)} characters: {line[:80]!r}"
    names = [key.rpartition(".")[2] for key in error.fields]
    named = [name for name in names if name.isprintable() and len(name) <= LONGEST_NAME]
    if named and len(lines) < MOST_LINES and not any(name in str(error) for name in named):
        return f"no sentence names {named[:3]}: {lines[0][:120]!r}"
    return None


@cache
def _fields() -> tuple[str, ...]:
    """Every field and every section of a job, dotted."""
    names: list[str] = []

    def walk(values: dict[str, Any], prefix: str) -> None:
        for key, value in values.items():
            names.append(prefix + key)
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")

    walk(JobSpec.load("quickstart").to_dict(), "")
    options = ("rank", "codes", "r", "schedule", "heads", "images", "dim", "tau", "margin", "x")
    return (*names, *(f"model.options.{option}" for option in options), "model.plan.blocks.0")


def _mutant(draw: random.Random) -> Mutant:
    text, overrides, params = GOOD, list[str](), list[str]()
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        kind = draw.choice(("set", "set", "set", "field", "field", "structure", "extends", "param"))
        if kind == "set":
            overrides.append(_override(draw))
        elif kind == "field":
            text = _with_field(draw, text)
        elif kind == "structure":
            text = draw.choice((text + draw.choice(STRUCTURES), draw.choice(STRUCTURES)))
        elif kind == "extends":
            text = f"extends: {draw.choice(PATHS)}\n{text}"
        else:
            name = draw.choice(
                (*_fields(), "lr", "keep_ratios", "keep_ratio.x", "ib_beta", "\x1b", "")
            )
            params.append(f"{name}={draw.choice(FORMS)}" if draw.random() < 0.9 else name)
    raw = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.25:
        raw = draw.choice(_BYTES)(draw, raw)
    return Mutant(raw, tuple(overrides), tuple(params))


def _value(draw: random.Random) -> str:
    if draw.random() < 0.2:
        magnitude = 10.0 ** draw.uniform(-12, 12)
        return draw.choice((f"{magnitude:g}", f"{int(magnitude)}", f"-{magnitude:g}"))
    return draw.choice(SCALARS)


def _override(draw: random.Random) -> str:
    odd = draw.random()
    if odd < 0.05:
        return draw.choice(
            ("", "=", "x", "=1", "a..b=1", "recipe.=1", "\x1b[2J=1", "x" * 9000, "a b=1")
        )
    if odd < 0.1:
        return (
            f"{draw.choice(_fields())}.{draw.choice(('x', 'a.b', 'ä', 'x' * 900))}={_value(draw)}"
        )
    return f"{draw.choice(_fields())}={_value(draw)}"


def _with_field(draw: random.Random, text: str) -> str:
    """The file with a field of it, or another one, at another value."""
    *sections, name = draw.choice(_fields()).split(".")
    value = _value(draw)
    if draw.random() < 0.5:
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        lines[at] = lines[at].partition(":")[0] + f": {value}"
        return "\n".join(lines)
    nested = "".join(f"{'  ' * depth}{section}:\n" for depth, section in enumerate(sections))
    return f"{text}{nested}{'  ' * len(sections)}{name}: {value}\n"


def _flipped(draw: random.Random, raw: bytes) -> bytes:
    if not raw:
        return raw
    at = draw.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ (1 << draw.randrange(8))]) + raw[at + 1 :]


def _without_part(draw: random.Random, raw: bytes) -> bytes:
    low, high = sorted(draw.choices(range(len(raw) + 1), k=2))
    return raw[:low] + raw[high:]


def _with_part(draw: random.Random, raw: bytes) -> bytes:
    at = draw.randrange(len(raw) + 1)
    part = draw.choice((b"\t", b"\0", b"\xff", b"\r", b"\x1b[2J", b"\xed\xa0\x80", b"\xef\xbb\xbf"))
    return raw[:at] + part * draw.choice((1, 1, 3, 1000)) + raw[at:]


def _repeated(draw: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    line = draw.choice(lines)
    return b"\n".join([*lines, *[line] * draw.choice((1, 2, 500))])


_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flipped,
    _flipped,
    _without_part,
    _with_part,
    _repeated,
    lambda draw, raw: raw.replace(b"  ", draw.choice((b"\t", b" ", b"   "))),
    lambda _, raw: raw.replace(b"\n", b"\r\n"),
    lambda _, raw: b"\xef\xbb\xbf" + raw,
    lambda draw, raw: raw.decode("utf-8", "replace").encode(
        draw.choice(("utf-16", "utf-32", "cp037"))
    ),
    lambda draw, raw: raw[: draw.randrange(len(raw) + 1)],
    lambda _, raw: raw + b"#" * 100_001,
    lambda draw, _: draw.randbytes(draw.choice((0, 1, 100, 5000))),
)
