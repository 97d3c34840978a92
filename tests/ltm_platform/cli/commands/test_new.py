"""A job file for who has none yet, the bundled ones, and completion in a real shell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest

from ltm_platform.job import JobSpec

if TYPE_CHECKING:
    from ...conftest import Run

SCRIPTS = Path(sys.executable).parent
DIGITS = ("--data", "digits", "--backbone", "vit_nano_patch4_32")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_three_options_make_a_job_that_is_valid(call_here: Run, here: Path) -> None:
    done = call_here("new", "my", *DIGITS, "--ratio", "0.5")
    assert (done.code, done.err) == (0, "")
    assert done.out == "wrote my.yaml; next: ltm-platform submit my.yaml --smoke\n"
    job = JobSpec.load("my.yaml")
    assert (job.model.backbone, job.model.compression_ratio) == ("vit_nano_patch4_32", 0.5)
    assert (job.model.pretrained, job.data.path, job.name) == (False, "digits", "my")
    assert call_here("validate", "my.yaml").code == 0
    (here / "my pictures: #1" / "cat").mkdir(parents=True)
    words = ("--data", "my pictures: #1", "--backbone", "deit_small_patch16_224")
    done = call_here("new", "fine.yaml", *words, "--target-gmacs", "3.2")
    assert (done.code, done.err) == (0, "")
    job = JobSpec.load("fine.yaml")
    assert (job.model.target_gmacs, job.model.compression_ratio) == (3.2, None)
    assert (job.model.pretrained, job.data.path) == (True, "my pictures: #1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("my", *DIGITS, "--ratio", "1.5"), "model.compression_ratio is 1.5"),
        (("my", *DIGITS[:3], "vit_nano_patch4_23", "--ratio", "1"), "'vit_nano_patch4_32'?"),
        (("my", *DIGITS, "--target-gmacs", "0.0001"), "model.target_gmacs is 0.0001"),
        (("my", *DIGITS, "--ratio", "0.5", "--target-gmacs", "1"), "a job has one of them"),
        (("there.yaml", *DIGITS, "--ratio", "0.5"), "there.yaml is there already"),
        (("no/my", *DIGITS, "--ratio", "0.5"), "cannot be written"),
        (("my", *DIGITS), "--ratio is not given, and there is no terminal"),
        (("my",), "--data is not given, and there is no terminal"),
    ],
)
def test_a_mistake_writes_nothing(
    call_here: Run, here: Path, words: tuple[str, ...], says: str
) -> None:
    (here / "there.yaml").write_text("mine")
    done = call_here("new", *words)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert [path.name for path in here.iterdir()] == ["there.yaml"]
    assert (here / "there.yaml").read_text() == "mine"


def test_what_is_not_said_is_asked(here: Path) -> None:
    command = str(SCRIPTS / "ltm-platform")
    child = pexpect.spawn(command, ["new", "asked.yaml"], encoding="utf-8", timeout=120)
    child.expect("Where are the images")
    child.sendline("digits")
    child.expect("Which network.*vit_small_patch16_224")
    child.sendline("vit_nano_patch4_32")
    child.expect("Which fraction.*0.7")
    child.sendline("a bit")
    child.expect("is not a valid float")
    child.sendline("")
    child.expect("wrote asked.yaml")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert JobSpec.load(here / "asked.yaml").model.compression_ratio == 0.7


def test_the_bundled_jobs_are_listed_with_their_budgets(call_here: Run) -> None:
    done = call_here("jobs", "--json")
    assert done.code == 0
    listed = {one["name"]: one for one in json.loads(done.out)}
    assert listed["quickstart"]["budget"] == "0.7 of the tokens"
    assert listed["s2vite_vit_s"]["budget"] == "2.329 GMACs"
    assert listed["tome_mobilevit_s"]["budget"] == "(13, 12) at stages.2.1, (6, 6) at stages.3.1"
    assert listed["mctf_vit_s"]["budget"] == "16 fewer tokens a block"
    assert listed["ltm_finetune"]["pretrained"] is True
    names = [line.split()[0] for line in call_here("jobs").out.splitlines() if line.strip()]
    assert names[1:] == sorted(listed)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ltm-platform stat", "status"),
        ("ltm-platform submit quick", "quickstart"),
        ("ltm-platform submit my-j", "my-job.yaml"),
        ("ltm-platform submit quickstart --forc", "--force"),
        ("ltm-platform logs my-ru", "my-run-1"),
    ],
)
def test_bash_completes_commands_options_jobs_and_runs(
    here: Path, words: str, expected: str
) -> None:
    (here / "home" / "runs" / "my-run-1").mkdir(parents=True)
    (here / "my-job.yaml").touch()
    bash = shutil.which("bash")
    assert bash
    path = f"{SCRIPTS}:{os.environ['PATH']}"
    environment = os.environ | {"LTM_PLATFORM_HOME": str(here / "home"), "PATH": path}
    program = f"""
        source <(ltm-platform completion bash)
        COMP_WORDS=({words}) COMP_CWORD={len(words.split()) - 1}
        _ltm_platform_completion ltm-platform
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        [bash, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert expected in done.stdout.split(), done.stdout + done.stderr
