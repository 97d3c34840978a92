"""However a run ends, its state is the truth and what it finished is kept."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from PIL import Image

from ltm_platform import tracking
from ltm_platform.compat.ray_checkpoints import RECORD_FILE
from ltm_platform.data import open_dataset
from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.run_folder import RunFolder

from .conftest import (
    TIMEOUT_S,
    await_step,
    ended,
    history,
    in_terminal,
    settings,
    submitted,
)

if TYPE_CHECKING:
    from .conftest import Cli

pytestmark = pytest.mark.slow


def test_a_damaged_shard_ends_the_run_at_once_and_a_bad_image_does_not(
    cli: Cli, store: str, tiny_job: Path, tmp_path: Path
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(20):
            shade = Image.new("RGB", (32, 32), (number * 12, 0, 0))
            shade.save(tmp_path / "images" / label / f"{number}.png")
    images, shards = str(tmp_path / "images"), tmp_path / "shards"
    assert cli("data", "import", images, str(shards)).returncode == 0
    job = ("submit", str(tiny_job), *settings("recipe.global_batch=4", "recipe.epochs=2"))

    file = shards / "train/00000-of-00001.parquet"
    whole = bytearray(file.read_bytes())
    # Of one image, and of none that is looked at before the start.
    whole[whole.index(b"\x89PNG", len(whole) // 4) + 30] ^= 1
    file.write_bytes(whole)
    done = cli(*job, "--name", "damaged", *settings(f"data.path={shards}"))
    assert done.returncode == 1, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("failed: "))
    assert line.startswith(f"failed: {file} is damaged: image ")
    assert "last checkpoint" not in done.stdout
    assert "run.log" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    run = tracking.find_run(store, "damaged")
    assert (run.status, run.tags.get("ltm.restarts")) == ("FAILED", None)

    parts = open_dataset(images, cache=tmp_path, val_fraction=0.2)
    bad = [str(part.locate(0)) for part in (parts.train, parts.val)]
    for name in bad:
        file = tmp_path / "images" / name.split("'")[1]
        file.write_bytes(file.read_bytes()[:-30])  # of its pixels, too
    allowed = (f"data.path={images}", "data.allow_bad=0.2")
    done = cli(*job, "--name", "bad", *settings(*allowed))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bad_images.json" in done.stdout
    run_id = tracking.find_run(store, "bad").run_id
    artifact = MlflowClient(store).download_artifacts(run_id, "bad_images.json", str(tmp_path))
    found = [name for part in json.loads(Path(artifact).read_text()).values() for name in part]
    assert sorted(name.partition(" cannot be decoded")[0] for name in found) == sorted(bad)
    done = cli("evaluate", "bad", "--last", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"not counted: 1 image that cannot be decoded\n  {bad[1]} " in done.stderr


def test_ctrl_c_and_sigterm_keep_what_is_finished_and_resume_goes_on(
    cli: Cli, environment: dict[str, str], store: str, home: Path, tiny_job: Path
) -> None:
    # a method whose network changes in training, and has to go on from where it was
    overrides = (
        "recipe.epochs=200",
        "checkpoint.keep=20",
        "model.method=s2vite",
        "model.options={update_every: 10}",
    )
    words = ["submit", str(tiny_job), "--name", "stopped", *settings(*overrides)]
    child = in_terminal(environment, *words)
    # the live line: epoch, step, loss and its parts, top-1, images/s, time left
    child.expect(r"epoch   2/200  step \d+.*loss \d.*ce \d.*ib .*top-1 .*images/s.*\d:\d\d")
    child.expect("epoch   2/200  loss")
    child.sendintr()
    child.expect("ltm-platform resume stopped")
    assert ended(child) == 130
    run = tracking.find_run(store, "stopped")
    assert run.status == "KILLED"
    steps = finished_epochs(store)
    assert len(steps) >= 2

    folder = RunFolder(home / "runs" / "stopped")
    before = stored(folder)
    (folder.path / RECORD_FILE).unlink()
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
    resumed = finished_epochs(store)
    assert resumed[: len(steps)] == steps
    assert len(set(resumed)) > len(set(steps))
    assert before[-1] in stored(folder), "the checkpoint that it went on from is gone"
    log = (home / "runs" / "stopped" / "run.log").read_text()
    assert log.count("Started a local Ray instance") == 2
    assert f"{RECORD_FILE}, is missing: it is made again from the manifests" in log
    taken = cli("submit", str(tiny_job), "--name", "stopped")
    assert taken.returncode == 2
    assert "ltm-platform resume stopped" in taken.stderr


def finished_epochs(store: str) -> list[int]:
    """The steps at which validation of the run "stopped" was recorded."""
    return [step for step, _ in history(store, "stopped", "val/top1")]


def test_the_second_run_on_a_machine_waits_for_the_first_and_says_so(
    cli: Cli, environment: dict[str, str], home: Path, tiny_job: Path
) -> None:
    whole = (f"cluster.cpus_per_worker={len(os.sched_getaffinity(0))}",)
    long = (*whole, "recipe.epochs=500", "checkpoint.every_steps=10")
    with submitted(environment, tiny_job, "before", *long) as first:
        await_step(home / "runs/before", 10, first)
        words = ["submit", str(tiny_job), "--name", "after"]
        second = in_terminal(environment, *words, *settings(*whole, "recipe.epochs=1"))
        second.expect(r"it waits for \d+ CPUs?: before has them")
        assert cli("stop", "before").returncode == 0
        assert first.wait(TIMEOUT_S) == 130
        second.expect("epoch 1/1  loss")
        assert ended(second) == 0
    kept = list(home.glob("machines/*/ray-sessions/*"))
    assert len(kept) == 1, "of Ray's logs those of the newest run are kept"
