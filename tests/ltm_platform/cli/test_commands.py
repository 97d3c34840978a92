"""The command line: help, mistakes, lists and what comes before a start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_platform.cli.app import COMMANDS
from ltm_platform.job import JobSpec
from ltm_platform.tracking import tracked_run

if TYPE_CHECKING:
    from ..conftest import Run

JOB = """\
model:
  backbone: vit_nano_patch4_32
  compression_ratio: 0.7
data:
  path: digits
recipe:
  epochs: 2
  augment:
    crop_scale: [0.7, 1.0]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that does not exist yet; the working folder holds x.yaml alone."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "x.yaml").write_text(JOB)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, call_here: Run) -> Run:  # noqa: ARG001
    return call_here


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- help


def test_help_lists_every_command_with_its_purpose(run: Run) -> None:
    answer = run("--help")
    assert answer.code == 0
    listed = answer.out.partition("Commands:")[2].splitlines()
    words = [line.split() for line in listed if line.strip()]
    assert [line[0] for line in words] == list(COMMANDS)
    assert all(len(line) > 2 for line in words)


@pytest.mark.parametrize("args", [[], *([command] for command in COMMANDS)])
def test_every_help_has_an_example_that_starts_with_the_command(run: Run, args: list[str]) -> None:
    answer = run(*args, "--help")
    assert answer.code == 0
    example = answer.out.partition("Example:\n")[2].splitlines()[0]
    assert example.strip().startswith(" ".join(["ltm-platform", *args]))


IMPORTS = """
import sys
from ltm_platform.cli.app import COMMANDS, main
for args in [[], *([command] for command in COMMANDS)]:
    main([*args, "--help"])
heavy = {"torch", "ray", "deepspeed", "mlflow", "timm", "pyarrow", "torchvision", "sklearn"}
print("heavy:", sorted(heavy & set(sys.modules)))
"""


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


# --- mistakes


@pytest.mark.parametrize(
    ("typed", "meant"), [("submti", "submit"), ("data imprt", "import"), ("cluster upp", "up")]
)
def test_an_unknown_command_is_told_in_one_sentence(run: Run, typed: str, meant: str) -> None:
    answer = run(*typed.split())
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith(f"there is no command {typed!r}; did you mean {meant!r}?")


@pytest.mark.parametrize("args", [["runs", "--jsn"], ["--jsn"], ["submit", "x.yaml", "--jsn"]])
def test_an_unknown_option_is_told_in_one_sentence(run: Run, args: list[str]) -> None:
    answer = run(*args)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert line.startswith("No such option")
    assert "--jsn" in line
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("command", ["submit", "validate"])
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["y.yaml"], ["y.yaml", "does not exist"]),
        (["x.yaml", "--set", "recipe.epochs=ten"], ["recipe.epochs", "'ten'"]),
        (["x.yaml", "--set", "model.method=lmt"], ["model.method", "'lmt'", "'ltm'"]),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_nothing_is_left(
    run: Run, home: Path, command: str, args: list[str], words: list[str]
) -> None:
    answer = run(command, *args)
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert all(word in line for word in words)
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_no_traceback_leaves_the_process() -> None:
    program = "from ltm_platform.cli.app import main; main(['validate', 'none.yaml'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_run_that_does_not_exist_cannot_go_on(run: Run, store: str) -> None:
    with tracked_run(JobSpec.load("x.yaml", [f"tracking.uri={store}"]), "x-1", Path("x-1")):
        pass
    answer = run("resume", "x-2", "--tracking-uri", store)
    assert answer.code == 2
    assert "there is no run 'x-2'" in answer.err
    assert "did you mean 'x-1'" in answer.err


def test_a_store_that_does_not_answer_is_told(run: Run) -> None:
    answer = run("runs", "--tracking-uri", "http://127.0.0.1:9")
    assert answer.code == 2
    assert "the tracking store http://127.0.0.1:9 does not answer" in answer.err
    assert len(answer.err.splitlines()) == 1


def test_a_finished_run_cannot_go_on(run: Run, store: str) -> None:
    with tracked_run(JobSpec.load("x.yaml", [f"tracking.uri={store}"]), "x-1", Path("x-1")):
        pass
    answer = run("resume", "x-1", "--tracking-uri", store)
    assert answer.code == 2
    assert "has finished" in answer.err


# --- validate


def test_validate_prints_the_whole_job_and_writes_nothing(run: Run, home: Path) -> None:
    answer = run("validate", "x.yaml", "--set", "engine.zero_stage=3")
    assert (answer.code, answer.err) == (0, "")
    assert files(home.parent) == ["work", "work/x.yaml"]
    expected = JobSpec.load("x.yaml", ["engine.zero_stage=3"])
    assert expected.engine.zero_stage == 3
    Path("y.yaml").write_text(answer.out)
    assert JobSpec.load("y.yaml") == expected


# --- runs and ui


def test_an_empty_home_has_no_runs_and_stays_empty(run: Run, home: Path) -> None:
    answer = run("runs")
    assert answer.code == 0
    assert "No runs yet" in answer.out
    assert run("runs", "--json").out.strip() == "[]"
    assert not home.exists()


def test_runs_are_listed_for_scripts(run: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = JobSpec.load("x.yaml", [f"tracking.uri={store}"])
    with tracked_run(job, "x-1", Path("x-1")) as tracked:
        tracked.log_metrics({"val/top1": 95.5}, step=3, time_ms=1)
    with pytest.raises(ValueError, match="boom"), tracked_run(job, "x-2", Path("x-2")):
        raise ValueError("boom")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    answer = run("runs", "--json")
    assert answer.code == 0
    newer, older = json.loads(answer.out)
    assert (newer["name"], newer["status"], newer["error"]) == ("x-2", "FAILED", "ValueError: boom")
    assert (older["name"], older["status"], older["error"]) == ("x-1", "FINISHED", None)
    assert older["metrics"]["val/top1"] == 95.5
    assert older["params"]["model.backbone"] == "vit_nano_patch4_32"


def test_runs_are_listed_for_people(run: Run, store: str) -> None:
    name = "a-name-of-an-experiment-that-says-what-it-is-about-1"
    job = JobSpec.load("x.yaml", [f"tracking.uri={store}"])
    with tracked_run(job, name, Path("x-1")) as tracked:
        tracked.log_metrics({"val/top1": 95.5, "model/gmacs": 0.25}, step=3, time_ms=1)
    answer = run("runs", "--tracking-uri", store)
    (line,) = [line for line in answer.out.splitlines() if "FINISHED" in line]
    assert line.split() == [name, "FINISHED", "ltm", "95.5", "0.25"]


def test_the_ui_of_a_server_is_the_server(run: Run) -> None:
    answer = run("ui", "--tracking-uri", "http://mlflow.example:5000")
    assert answer.code == 0
    assert "http://mlflow.example:5000" in answer.out


# --- before the start


def test_plan_is_one_page_and_starts_nothing(run: Run, home: Path) -> None:
    overrides = ("--set", "cluster.workers=[1,2]", "--set", "engine.offload=optimizer")
    answer = run("plan", "x.yaml", *overrides, "--images-per-s", "100")
    assert answer.code == 0, answer.err
    for words in (
        "256 = 256 x 1 x 1",
        "256 = 128 x 1 x 2  <- with what there is",
        '"train_micro_batch_size_per_gpu": 128',
        "<- engine.zero_stage, engine.offload optimizer",
        "engine.offload puts 0.00",
        '"offload_optimizer": {"device": "cpu"}',
        "0.00799 hours at 100 images/s",
        "digits: 1,438 training",
        "it can start",
    ):
        assert words in answer.out, words
    assert len(answer.out.splitlines()) < 40
    assert not (home / "runs").exists()


def test_plan_tells_everything_that_is_in_the_way(run: Run) -> None:
    overrides = ("cluster.workers=64", "tracking.uri=http://127.0.0.1:1")
    answer = run("plan", "x.yaml", *(word for o in overrides for word in ("--set", o)))
    assert answer.code == 2
    reasons = [line for line in answer.out.splitlines() if line.startswith("cannot start: ")]
    assert len(reasons) == 2
    assert "it can start" not in answer.out


@pytest.mark.parametrize("option", [["--detach"], ["--env", "HOME"]])
def test_what_is_for_a_cluster_is_refused_here(run: Run, option: list[str]) -> None:
    answer = run("submit", "x.yaml", "--address", "local", *option)
    assert answer.code == 2
    assert "is for a cluster" in answer.err


def test_doctor_tells_what_to_type(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    answer = run("doctor", "--json")
    assert answer.code == 1
    findings = {finding["what"]: finding for finding in json.loads(answer.out)}
    assert not findings["MLflow"]["fine"]
    assert "MLFLOW_TRACKING_URI" in findings["MLflow"]["remedy"]
    assert findings["torch"]["fine"]
    assert findings["Python"]["fine"]
