"""What a run draws where there is no terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import click
import pytest
from rich.console import Console

from ltm_platform.api import Checkpoint, RunBegins, RunResult
from ltm_platform.checks import CheckedJob, check
from ltm_platform.cli.screen.run import Screen
from ltm_platform.errors import RunError
from ltm_platform.events import (
    Decided,
    EpochEnded,
    Event,
    Failed,
    ImagesLeftOut,
    Measured,
    Progress,
    Started,
)
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster.resources import Resources
from ltm_platform.storage.run_folder import RunFolder

from ...storage.conftest import write_run

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


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, ltm_home: Path) -> CheckedJob:  # noqa: ARG001
    file = tmp_path_factory.mktemp("job") / "x.yaml"
    file.write_text(JOB)
    return check(JobSpec.load(file), Resources(cpus=2, gpus=0))


class Plain:
    """A screen that nobody looks at, and the text on it."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.now = 0.0
        console = Console(file=self._file, width=1000, highlight=False, markup=False)
        self.screen = Screen(console, lambda: self.now)

    @property
    def lines(self) -> list[str]:
        return self._file.getvalue().splitlines()


FIGURES = {"train/loss": 1.25, "train/ce": 1.0, "train/ib_bound": 0.5, "train/lr": 0.1}
SCORES = {"val/top1": 87.654, "val/ema_top1": 88.0, "train/images_per_s": 1234.5}
SPEED = {"bench/latency_ms": 3.25, "bench/images_per_s": 987.0}


def training(epochs: int, *, steps_done: int = 0) -> list[Event]:
    """Three steps an epoch."""
    events: list[Event] = [Started(epochs, steps_done // 3, 3 * epochs, steps_done, "cpu", 2)]
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


def test_without_a_terminal_a_long_epoch_is_a_line_a_minute(
    checked: CheckedJob, tmp_path: Path
) -> None:
    plain = Plain()
    plain.screen(RunBegins(checked, RunFolder(tmp_path)))
    head = len(plain.lines)
    plain.now = 21.0
    plain.screen(Started(3, 0, 900, 0, "cpu", 2))
    for step in range(1, 301):
        plain.now += 1
        plain.screen(Progress(step, 0, FIGURES | {"train/images_per_s": 512.0}))
    begins, *lines = plain.lines[head:]
    assert begins == "training begins after 21 s, with 2 workers"
    assert [line.split("  ")[1] for line in lines] == [f"step {n}/900" for n in range(60, 301, 60)]
    losses = "loss 1.250  ce 1.000  ib 0.500"
    assert lines[1] == f"epoch 1/3  step 120/900  {losses}  512 images/s  0:13:00 left"
    assert (tmp_path / "run.log").read_text().splitlines() == plain.lines


def test_a_base_without_the_bound_suggests_ltm_with_it(checked: CheckedJob, tmp_path: Path) -> None:
    job = checked.job.overridden(["model.method=none", "recipe.ib.weight=0"])
    plain = Plain()
    plain.screen(RunBegins(replace(checked, job=job), RunFolder(tmp_path)))
    best = Checkpoint("/runs/best", 91.5)
    result = RunResult("x-1", SCORES | SPEED, best, best, tmp_path, "1", "sqlite:///x.db")
    plain.screen.result(result, ["ltm-platform", "submit", "x", "--set", "recipe.ib.weight=0"])
    assert any(
        "--set recipe.ib.weight=0 --set model.method=ltm --set recipe.ib.weight=0.1" in line
        for line in plain.lines
    )


def test_a_run_that_goes_on_says_from_where() -> None:
    plain = Plain()
    with plain.screen:
        for event in training(epochs=3, steps_done=3):
            plain.screen(event)
    going_on, *epochs = [line for line in plain.lines if line]
    assert going_on == "going on after epoch 1, step 3 of 9, with 2 workers"
    assert [line.split()[1] for line in epochs] == ["2/3", "3/3"]


def test_the_head_says_what_runs_where(checked: CheckedJob) -> None:
    plain = Plain()
    folder = RunFolder(Path("/runs/[old] digits/x-1"))
    plain.screen.head(checked, folder)
    assert plain.lines[0] == "x-1"
    text = "\n".join(plain.lines)
    assert str(folder.log) in text
    assert "vit_nano_patch4_32" in text
    assert "1,438 training and 359 validation images" in text
    assert "batch 256 = 128 x 1 accumulated x 2 workers" in text


def test_the_result_names_the_figures_the_checkpoints_and_the_next_commands(
    checked: CheckedJob, tmp_path: Path
) -> None:
    plain = Plain()
    plain.screen(RunBegins(checked, RunFolder(tmp_path)))
    result = RunResult(
        name="x-1",
        metrics=SCORES | SPEED,
        best=Checkpoint("/runs/[old] digits/best", 91.5),
        last=Checkpoint("/runs/x-1/last", 87.65),
        folder=tmp_path,
        run_id="1",
        tracking_uri="sqlite:///x.db",
    )
    command = ["ltm-platform", "submit", "my [first] job.yaml"]
    head = len(plain.lines)
    plain.screen.result(result, command)
    table, _, after = "\n".join(plain.lines[head:]).partition("Next:")
    rows = dict(line.strip().split("  ", 1) for line in table.splitlines() if line.strip())
    rows = {key: value.strip() for key, value in rows.items()}
    assert rows["top-1"] == "87.65 % (best 91.50 %)"
    assert rows["top-1 of the EMA"] == "88.00 %"
    assert rows["best checkpoint"] == "/runs/[old] digits/best"
    assert rows["last checkpoint"] == "/runs/x-1/last"
    assert f"{checked.cost.gmacs:.3g} GMACs (base {checked.base_cost.gmacs:.3g})" in rows["size"]
    assert "ltm-platform ui" in after
    assert "ltm-platform runs" in after
    assert "ltm-platform submit 'my [first] job.yaml' --set model.method=none" in after
    assert (tmp_path / "run.log").read_text().splitlines() == plain.lines


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (RunError("rank 1: KeyError: '[bold]'"), 1, "failed: rank 1: KeyError: '[bold]'"),
    ],
)
def test_a_run_that_ends_early_says_so_and_gives_the_exit_code(
    checked: CheckedJob, tmp_path: Path, error: BaseException, code: int, words: str
) -> None:
    plain = Plain()
    with pytest.raises(click.exceptions.Exit) as end, plain.screen:
        plain.screen(RunBegins(checked, RunFolder(tmp_path)))
        raise error
    assert end.value.exit_code == code
    assert words in plain.lines
    assert "begin again with: ltm-platform resume" in plain.lines[-1]


def test_what_breaks_before_a_run_begins_is_for_others_to_tell() -> None:
    plain = Plain()
    with pytest.raises(RunError), plain.screen:
        raise RunError("before")
    assert plain.lines == []


def test_the_end_of_a_broken_run_says_why_and_how_to_go_on(tmp_path: Path) -> None:
    plain = Plain()
    folder = RunFolder(tmp_path / "x-1")
    write_run(folder.path)
    plain.screen.failed(folder, RunError("rank 1: KeyError: '[bold]'"))
    text = "\n".join(plain.lines)
    assert "rank 1: KeyError: '[bold]'" in text
    assert str(folder.log) in text
    assert "go on from the last checkpoint with: ltm-platform resume x-1" in text


def test_images_that_are_left_out_are_told() -> None:
    plain = Plain()
    plain.screen(ImagesLeftOut({"training": ["image 'a'", "image 'b'"], "validation": []}))
    assert plain.lines == [
        "  note      images that cannot be decoded are left out (2 training): the artifact "
        "bad_images.json names them"
    ]


def test_the_end_of_a_stopped_run_says_how_to_go_on(tmp_path: Path) -> None:
    plain = Plain()
    folder = RunFolder(tmp_path / "x-1")
    write_run(folder.path)
    plain.screen.stopped(folder)
    assert "ltm-platform resume x-1" in "\n".join(plain.lines)


def test_a_checkpoint_is_spoken_of_only_where_there_is_one(tmp_path: Path) -> None:
    plain = Plain()
    plain.screen.stopped(RunFolder(tmp_path / "x-1"))
    assert plain.lines[1:] == ["begin again with: ltm-platform resume x-1"]


def test_a_part_that_failed_is_said_once_and_that_it_is_tried_again(
    checked: CheckedJob, tmp_path: Path
) -> None:
    plain = Plain()
    plain.screen(RunBegins(checked, RunFolder(tmp_path)))
    plain.screen(Failed("rank 1: MemoryError"))
    assert plain.lines[-1].strip() == "note      rank 1: MemoryError; it is tried again"


def test_what_holds_a_run_back_is_one_line() -> None:
    plain = Plain()
    said = "waiting for images: 62 % of the step; data.loader_workers=12 would help"
    with plain.screen:
        plain.screen(Started(1, 0, 3, 0, "cpu", 2))
        plain.screen(Decided("held_back_by", "decode", said))
    assert [line.split("note")[1].strip() for line in plain.lines] == [said]
