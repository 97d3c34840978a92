"""Files that are no jobs, jobs that build on each other in a circle, and wrong overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_platform.job.load import bundled_folder

from .conftest import GOOD, failure, sentence

BUNDLED = f"(bundled jobs: {', '.join(sorted(file.stem for file in bundled_folder().glob('*')))})"

pytestmark = pytest.mark.usefixtures("_in_a_folder_of_its_own")


def test_a_missing_file_is_named_with_the_nearest() -> None:
    Path("jobs/mine.yaml").write_text(GOOD)
    expected = f"jobs/mien.yaml does not exist; did you mean 'jobs/mine.yaml'? {BUNDLED}"
    assert failure("jobs/mien.yaml") == expected
    assert failure("mien") == f"mien does not exist; did you mean 'mine'? {BUNDLED}"
    expected = f"quickstrat does not exist; did you mean 'quickstart'? {BUNDLED}"
    assert failure("quickstrat") == expected
    assert failure("elsewhere/x.yaml") == f"elsewhere/x.yaml does not exist {BUNDLED}"
    assert failure("jobs") == "jobs is a folder, not a job file"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("recipe.epochs", "there is no '='; write it as section.key=value, e.g. recipe.epochs=10"),
        ("=5", "'' is not a key; write it as section.key=value, e.g. recipe.epochs=10"),
        (
            "recipe.=5",
            "'recipe.' is not a key; write it as section.key=value, e.g. recipe.epochs=10",
        ),
        ("extends=a.yaml", "extends can only be said in a job file"),
        (
            "recipe.ib={wieght: 1}",
            "recipe.ib.wieght is not a field of recipe.ib; did you mean 'weight'? "
            "(allowed: beta, clusters, warmup, weight)",
        ),
        ("data.path=*a", "this is not valid YAML: found undefined alias 'a' (column 1)"),
    ],
)
def test_a_wrong_override(override: str, problem: str) -> None:
    assert sentence(GOOD, override) == f"--set {override}: {problem}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "jobs/x.yaml is empty, but a job needs at least model.backbone and data.path"),
        (
            "- a\n",
            "jobs/x.yaml holds a list, but a job file holds sections such as model: and data:",
        ),
        (b"\xff\xfe\x00", "jobs/x.yaml is not a job file: it is not UTF-8 text"),
        (
            b"#" * 100_001,
            "jobs/x.yaml is not a job file: it is larger than 100000 bytes",
        ),
        (
            "model:\n\tbackbone: v\n",
            "jobs/x.yaml:2: this is not valid YAML: found character '\\t' that cannot start any "
            "token (column 1); indent with spaces, not tabs",
        ),
        (
            "name: x\nmodel: {backbone: 'v\n\n\n",
            "jobs/x.yaml:2: this is not valid YAML: found unexpected end of stream (column 19)",
        ),
        ("a: \0", "jobs/x.yaml:1: this is not valid YAML: it holds the character '\\x00'"),
        (
            GOOD + "model:\n  backbone: other\n",
            "jobs/x.yaml:5: model is given twice, first at jobs/x.yaml:1",
        ),
        (GOOD + "1: x\n", "jobs/x.yaml:5: the key 1 is not a name"),
        (
            GOOD + "recipe.epochs: 3\n",
            "jobs/x.yaml:5: the key 'recipe.epochs' holds a dot; "
            "write recipe: and the rest indented below it",
        ),
        (
            GOOD + "name: !!python/name:os.system x\n",
            "jobs/x.yaml:5: the YAML tag !!python/name:os.system does not belong here",
        ),
        ("model: &a [*a]\n", "jobs/x.yaml:1: this is too large or too deep for a job file"),
        ("[" * 1000, "jobs/x.yaml:1: this is nested too deeply"),
        ("extends: 5\n", "jobs/x.yaml:1: extends is 5, but must be the path of a job file"),
        (
            "extends: ../base.yaml\n",
            f"jobs/x.yaml:1: extends is '../base.yaml', but base.yaml does not exist {BUNDLED}",
        ),
    ],
)
def test_a_file_that_is_no_job(text: str | bytes, expected: str) -> None:
    assert sentence(text) == expected


def test_aliases_cannot_blow_up() -> None:
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9)]
    text = "\n".join(["l0: &l0 x", *levels])
    assert sentence(text).endswith(": this is too large or too deep for a job file")


def test_a_circle_of_extends_is_shown_as_a_chain() -> None:
    for name, base in [("a", "b"), ("b", "c"), ("c", "b")]:
        Path(f"jobs/{name}.yaml").write_text(f"\nextends: {base}.yaml\n")
    assert failure("jobs/a.yaml") == (
        "jobs/c.yaml:2: extends runs in a circle: jobs/b.yaml -> jobs/c.yaml -> jobs/b.yaml"
    )
