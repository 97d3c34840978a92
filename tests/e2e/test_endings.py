"""However a run ends, its state is the truth and what it finished is kept."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from PIL import Image

from ltm_platform import tracking

from .conftest import ended, in_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Cli


def test_an_exception_in_a_rank_fails_the_run(
    cli: Cli, store: str, tiny_job: Path, tmp_path: Path
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(8):
            Image.new("RGB", (32, 32), (number * 30, 0, 0)).save(tmp_path / label / f"{number}.png")
    (tmp_path / "dog" / "5.png").write_bytes(b"no image")

    overrides = (
        f"data.path={tmp_path}",
        "recipe.global_batch=4",
        "recipe.epochs=8",
        "cluster.max_failures=0",
    )
    settings = [word for override in overrides for word in ("--set", override)]
    # Preflight looks at some of the images, and may find it.
    done = cli("submit", str(tiny_job), "--name", "broken", "--force", *settings)
    assert done.returncode == 1
    assert "dog/5.png" in done.stdout
    assert "run.log" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    run = tracking.find_run(store, "broken")
    assert run.status == "FAILED"
    assert "dog/5.png" in (run.error or "")


def test_ctrl_c_and_sigterm_keep_what_is_finished_and_resume_goes_on(
    environment: dict[str, str], store: str, home: Path, tiny_job: Path
) -> None:
    # a method whose network changes in training, and has to go on from where it was
    overrides = (
        "recipe.epochs=200",
        "engine.zero_stage=2",
        "model.method=s2vite",
        "model.options={update_every: 10}",
    )
    words = [word for override in overrides for word in ("--set", override)]
    child = in_terminal(environment, "submit", str(tiny_job), "--name", "stopped", *words)
    # the live line: epoch, step, loss and its parts, top-1, images/s, time left
    child.expect(r"epoch   2/200  step \d+.*loss \d.*ce \d.*ib .*top-1 .*images/s.*\d:\d\d")
    child.expect("epoch   2/200  loss")
    child.sendintr()
    child.expect("ltm-platform resume stopped")
    assert ended(child) == 130
    run = tracking.find_run(store, "stopped")
    assert run.status == "KILLED"
    steps = finished_epochs(store, run.run_id)
    assert len(steps) >= 2

    child = in_terminal(environment, "resume", "stopped", "-v")
    child.expect("Started a local Ray instance")
    child.expect(r"going on after epoch (\d+)")
    assert int(child.match.group(1)) in (len(steps) - 1, len(steps))
    # Where the last checkpoint was not complete, one finished epoch is trained again.
    child.expect(rf"epoch \s*{len(steps) + 1}/200  loss")
    # to Ray's processes, too, as what ends a batch job or a service does it
    os.killpg(child.pid, signal.SIGTERM)
    child.expect("ltm-platform resume stopped")
    assert ended(child) == 130
    assert tracking.find_run(store, "stopped").status == "KILLED"
    resumed = finished_epochs(store, run.run_id)
    assert resumed[: len(steps)] == steps
    assert len(set(resumed)) > len(set(steps))
    log = (home / "runs" / "stopped" / "run.log").read_text()
    assert log.count("Started a local Ray instance") == 2


def finished_epochs(store: str, run_id: str) -> list[int]:
    """The steps at which validation was recorded."""
    history = MlflowClient(tracking_uri=store).get_metric_history(run_id, "val/top1")
    return [metric.step for metric in history]


def test_a_name_is_taken_once(cli: Cli, tiny_job: Path, store: str) -> None:
    name = tracking.list_runs(store)[0].name
    refused = cli("submit", str(tiny_job), "--name", name)
    assert refused.returncode == 2
    assert f"ltm-platform resume {name}" in refused.stderr


@pytest.mark.parametrize("name", ["../../x", "a b", "$(touch x)", ""])
def test_a_name_stays_in_its_folder(cli: Cli, tiny_job: Path, home: Path, name: str) -> None:
    before = sorted(home.rglob("*"))
    refused = cli("submit", str(tiny_job), "--name", name)
    assert refused.returncode == 2
    assert sorted(home.rglob("*")) == before
