"""The command line, and what it draws."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from ltm_platform.cli import COMMANDS
from ltm_platform.cli.screen import Screen
from ltm_platform.data.place import place
from ltm_platform.errors import RunError
from ltm_platform.events import EpochEnded, Event, Measured, Progress, Started
from ltm_platform.job import JobSpec
from ltm_platform.launch.folder import RunFolder
from ltm_platform.preflight import Ready, Resources, check
from ltm_platform.tracking import tracked_run

if TYPE_CHECKING:
    from .conftest import Run

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
from ltm_platform.cli import COMMANDS, main
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


def test_an_unknown_command_is_told_in_one_sentence(run: Run) -> None:
    answer = run("submti")
    assert (answer.code, answer.out) == (2, "")
    (line,) = answer.err.splitlines()
    assert "'submti'" in line
    assert "did you mean 'submit'" in line


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
    program = "from ltm_platform.cli import main; main(['validate', 'none.yaml'])"
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


# --- the screen, where it is no terminal


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, ltm_home: Path) -> Ready:  # noqa: ARG001
    file = tmp_path_factory.mktemp("job") / "x.yaml"
    file.write_text(JOB)
    return check(JobSpec.load(file), Resources(cpus=2, gpus=0))


class Plain:
    """A screen that nobody looks at, and the text on it."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.screen = Screen(Console(file=self._file, width=1000, highlight=False, markup=False))

    @property
    def lines(self) -> list[str]:
        return self._file.getvalue().splitlines()


FIGURES = {"train/loss": 1.25, "train/ce": 1.0, "train/ib_bound": 0.5, "train/lr": 0.1}
SCORES = {"val/top1": 87.654, "val/ema_top1": 88.0, "train/images_per_s": 1234.5}
SPEED = {"bench/latency_ms": 3.25, "bench/images_per_s": 987.0}


def training(epochs: int, *, steps_done: int = 0) -> list[Event]:
    """Three steps an epoch."""
    events: list[Event] = [Started(epochs, 3, steps_done, "cpu", 2)]
    for epoch in range(steps_done // 3, epochs):
        last = 3 * (epoch + 1)
        events += [Progress(step, epoch, FIGURES) for step in range(last - 2, last + 1)]
        events.append(EpochEnded(last, epoch, SCORES))
    return [*events, Measured(3 * epochs, epochs - 1, SPEED)]


def test_without_a_terminal_an_epoch_is_one_plain_line() -> None:
    plain = Plain()
    with plain.screen:
        for event in training(epochs=2):
            plain.screen(event)
    first, second = [line for line in plain.lines if line]
    assert first.startswith("epoch 1/2 ")
    assert second.startswith("epoch 2/2 ")
    for part in ("loss 1.250", "ce 1.000", "ib 0.500", "top-1 87.7 %"):
        assert part in first
    assert "\x1b" not in "".join(plain.lines)


def test_a_run_that_goes_on_says_from_where() -> None:
    plain = Plain()
    with plain.screen:
        for event in training(epochs=3, steps_done=3):
            plain.screen(event)
    going_on, *epochs = [line for line in plain.lines if line]
    assert going_on == "going on after epoch 1 with 2 workers"
    assert [line.split()[1] for line in epochs] == ["2/3", "3/3"]


def test_the_head_says_what_runs_where(ready: Ready) -> None:
    plain = Plain()
    folder = RunFolder(Path("/runs/[old] digits/x-1"))
    plain.screen.head(ready, folder)
    assert plain.lines[0] == "x-1"
    text = "\n".join(plain.lines)
    assert str(folder.log) in text
    assert "vit_nano_patch4_32" in text
    assert "1,438 training and 359 validation images" in text
    assert "batch 256 = 128 x 1 accumulated x 2 workers" in text


def test_the_result_names_the_figures_the_checkpoints_and_the_next_commands(ready: Ready) -> None:
    from ltm_platform.launch.driver import Outcome
    from ltm_platform.launch.history import StoredCheckpoint

    plain = Plain()
    folders = "/runs/[old] digits/best", "/runs/x-1/last"
    tops = {"val/top1": 91.5}, {"val/top1": 87.65}
    best, last = (
        StoredCheckpoint(Path(folder), top1, place(folder))
        for folder, top1 in zip(folders, tops, strict=True)
    )
    command = ["ltm-platform", "submit", "my [first] job.yaml"]
    plain.screen.result(ready, Outcome(SCORES | SPEED, best, last), command)
    table, _, after = "\n".join(plain.lines).partition("Next:")
    rows = dict(line.strip().split("  ", 1) for line in table.splitlines() if line.strip())
    rows = {key: value.strip() for key, value in rows.items()}
    assert rows["top-1"] == "87.65 % (best 91.50 %)"
    assert rows["top-1 of the EMA"] == "88.00 %"
    assert rows["best checkpoint"] == "/runs/[old] digits/best"
    assert rows["last checkpoint"] == "/runs/x-1/last"
    assert f"{ready.cost.gmacs:.3g} GMACs (base {ready.base_cost.gmacs:.3g})" in rows["size"]
    assert "ltm-platform ui" in after
    assert "ltm-platform runs" in after
    assert "ltm-platform submit 'my [first] job.yaml' --set model.method=none" in after


def test_the_end_of_a_broken_run_says_why_and_how_to_go_on() -> None:
    plain = Plain()
    folder = RunFolder(Path("/runs/x-1"))
    plain.screen.failed(folder, RunError("rank 1: KeyError: '[bold]'"))
    text = "\n".join(plain.lines)
    assert "rank 1: KeyError: '[bold]'" in text
    assert str(folder.log) in text
    assert "ltm-platform resume x-1" in text


def test_the_end_of_a_stopped_run_says_how_to_go_on() -> None:
    plain = Plain()
    plain.screen.stopped(RunFolder(Path("/runs/x-1")))
    assert "ltm-platform resume x-1" in "\n".join(plain.lines)


# --- what libraries print

PRINTING = """
import os, subprocess, sys
from pathlib import Path
from ltm_platform.cli.capture import captured_output

with captured_output(Path(sys.argv[1]), echo=sys.argv[2] == "echo") as console:
    print("of Python")
    os.write(1, b"of the process\\n")
    os.write(2, b"its errors\\n")
    subprocess.run(["sh", "-c", "echo of a child; echo its errors too >&2"])
    console.print("for the user")
    {at_the_end}
print("after")
print("errors after", file=sys.stderr)
"""
CAPTURED = ["of Python", "of the process", "its errors", "of a child", "its errors too"]


def printing(log: Path, *, echo: bool, at_the_end: str = "") -> subprocess.CompletedProcess[str]:
    program = PRINTING.format(at_the_end=at_the_end)
    return subprocess.run(
        [sys.executable, "-c", program, str(log), "echo" if echo else "quiet"],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_is_printed_goes_to_the_log_alone(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = printing(log, echo=False)
    assert done.stdout.splitlines() == ["for the user", "after"]
    assert done.stderr.splitlines() == ["errors after"]
    assert sorted(log.read_text().splitlines()) == sorted(CAPTURED)


def test_with_echo_it_goes_to_both_to_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = printing(log, echo=True)
    assert sorted(log.read_text().splitlines()) == sorted(CAPTURED)
    *during, last = done.stdout.splitlines()
    assert sorted(during) == sorted([*CAPTURED, "for the user"])
    assert last == "after"
    assert done.stderr.splitlines() == ["errors after"]


@pytest.mark.parametrize("echo", [False, True])
def test_the_screen_is_given_back_after_an_error(tmp_path: Path, echo: bool) -> None:
    log = tmp_path / "run.log"
    done = printing(log, echo=echo, at_the_end="raise RuntimeError('boom')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: boom"
    assert "boom" not in log.read_text()


def test_a_log_is_continued(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("of the first attempt\n")
    printing(log, echo=False)
    assert log.read_text().splitlines()[0] == "of the first attempt"
    assert len(log.read_text().splitlines()) == 1 + len(CAPTURED)


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
