"""What a refusal quotes: a line at most, nothing that a terminal obeys, of no job nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ltm_platform.job import JobSpec

from .conftest import GOOD, failure, sentence

pytestmark = pytest.mark.usefixtures("_in_a_folder_of_its_own")

LONG = "x" * 50_000
SHADOW = "root:$6$salt$c2VjcmV0:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n"


def assert_bounded(text: str) -> None:
    for line in text.splitlines():
        assert len(line) < 1300
        assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (GOOD + f"name: {LONG}\n", ()),
        (GOOD + f"{LONG}: 1\n", ()),
        (GOOD + f"recipe: {{{LONG}: 1}}\n", ()),
        (GOOD + f"recipe: {{epochs: {LONG}}}\n", ()),
        (GOOD + f"recipe: {{epochs: [{', '.join('1' * 3000)}]}}\n", ()),
        (GOOD + f"x: !{LONG} 1\n", ()),
        (GOOD + f"x: *{LONG}\n", ()),
        (GOOD + f"{LONG}.a: 1\n", ()),
        (GOOD + f"? {{{LONG}: 1}}\n: 1\n", ()),
        (GOOD.replace("digits", LONG), ()),
        (f"extends: {LONG}\n", ()),
        (f"extends: [{LONG}]\n", ()),
        (GOOD, (f"recipe.epochs={LONG}",)),
        (GOOD, (f"{LONG}=1",)),
        (GOOD, (LONG,)),
        (GOOD, (f"recipe.{LONG}=1",)),
        (GOOD, (f"model.method={LONG}\x1b[2J=",)),
        (GOOD, ("recipe.epochs=\x1b[31mred\nx",)),
        (GOOD + 'name: "\\e[2J"\n', ()),
        (GOOD + '"a\\nb": 1\n', ()),
        (GOOD + '"a\\0b": 1\n', ()),
        (GOOD + '"\\ud800": 1\n', ()),
        ('extends: "a\\nb\\0c"\n', ()),
        (GOOD + "".join(f"k{number}: 1\n" for number in range(4)) * 1, ()),
    ],
    ids=lambda value: str(value)[-30:] if isinstance(value, str) else None,
)
def test_a_refusal_quotes_a_line_at_most(text: str, overrides: tuple[str, ...]) -> None:
    assert_bounded(sentence(text, *overrides))


def test_a_thousand_mistakes_are_not_a_thousand_lines() -> None:
    text = GOOD + "recipe:\n" + "".join(f"  k{number}: 1\n" for number in range(1000))
    said = sentence(text).splitlines()
    assert len(said) == 21
    assert said[-1] == "... and 980 more"


@pytest.mark.parametrize("name", ["shadow", "shadow.yaml"])
def test_a_file_that_is_no_job_is_not_quoted(name: str) -> None:
    Path("jobs", name).write_text(SHADOW)
    for said in (sentence(f"extends: {name}\n"), failure(f"jobs/{name}")):
        assert f"jobs/{name} is not a job file: its keys are not those of a job" in said
        assert "root" not in said
        assert "salt" not in said


@pytest.mark.parametrize(
    "text",
    [
        "password: hunter2\nuser: me\n",
        "hunter2",
        "- hunter2\n",
        "a: 'hunter2\n",
        "hunter2: [\n",
        "a: *hunter2\n",
        "a: !hunter2 x\n",
        "hunter2: 1\nhunter2: 2\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {}\ntype: Opaque\ndata: {hunter2: eA==}\n",
    ],
)
def test_secrets_of_a_foreign_file_stay_where_they_are(text: str) -> None:
    Path("jobs/other").write_text(text)
    assert "hunter2" not in sentence("extends: other\n")


def test_a_misspelt_section_is_still_told() -> None:
    assert "modle is not a field of the job; did you mean 'model'?" in sentence(
        "modle:\n  backbone: x\n"
    )


def test_a_job_is_read_from_a_regular_file() -> None:
    os.mkfifo("jobs/pipe.yaml")
    assert failure("jobs/pipe.yaml") == (
        "jobs/pipe.yaml is not a job file: it is not a regular file"
    )
    assert "is not a regular file" in sentence("extends: pipe.yaml\n")
    assert "is not a regular file" in sentence("extends: /dev/zero\n")


def test_a_job_may_come_from_the_shell() -> None:
    read, write = os.pipe()
    os.write(write, GOOD.encode())
    os.close(write)
    try:
        assert JobSpec.load(f"/dev/fd/{read}").data.path == "digits"
    finally:
        os.close(read)


def test_a_chain_of_extends_has_an_end() -> None:
    for number in range(40):
        Path(f"jobs/{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    assert "extends more than 31 files" in failure("jobs/0.yaml")


@pytest.mark.parametrize("escape", [r"\UFFFFFFFF", r"\U00110000"])
def test_a_character_that_does_not_exist_is_told(escape: str) -> None:
    assert sentence(GOOD + f'\na: "{escape}"\n') == (
        "jobs/x.yaml:6: this is not valid YAML: it has an escape of a character that does not exist"
    )
    assert sentence(GOOD, f'name="{escape}"').startswith(f'--set name="{escape}": ')


def test_text_that_cannot_be_stored_is_refused_in_options_too() -> None:
    for value in (r'"\ud800"', r'"\e[2J"', r'{"\ud800": 1}'):
        assert "model.options is a mapping, but must" in sentence(
            GOOD, f"model.options={{a: {value}}}"
        )
