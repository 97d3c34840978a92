"""The functions of `ltm_platform.api` in a program of their user, here the test itself."""

from __future__ import annotations

import os
import re
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
from PIL import Image

from ltm_platform import api, tracking
from ltm_platform.events import EpochEnded
from ltm_platform.job import JobSpec

from .conftest import LEAN, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.api import RunEvent

pytestmark = pytest.mark.slow

TINY = ("recipe.epochs=1", "recipe.warmup_epochs=0", "recipe.global_batch=256", *LEAN)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forking: dict[str, str]) -> Path:
    for name, value in forking.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "home"


@contextmanager
def nothing_is_left(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """The block prints nothing and changes nothing of the process."""
    signals = (signal.SIGINT, signal.SIGTERM)
    environment, handlers = dict(os.environ), [signal.getsignal(one) for one in signals]
    connected = ray.is_initialized()
    capfd.readouterr()
    yield
    assert capfd.readouterr() == ("", "")
    assert dict(os.environ) == environment
    assert [signal.getsignal(one) for one in signals] == handlers
    assert ray.is_initialized() == connected


def test_the_example_of_the_documentation(
    capfd: pytest.CaptureFixture[str],
    own_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what the working folder has goes before what is bundled: the same in fewer steps
    job = tmp_path / "jobs" / "quickstart.yaml"
    job.parent.mkdir()
    lean = ["recipe.global_batch=256", *LEAN]
    job.write_text(JobSpec.load(str(ROOT / "jobs/quickstart.yaml"), lean).to_yaml())
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.DOTALL)
    first, evaluated, resumed, mistake = blocks
    notebook: dict[str, Any] = {}
    with nothing_is_left(capfd):
        exec(first, notebook)
    run = notebook["run"]
    record = tracking.find_run(run.tracking_uri, run.name)
    assert (run.name, record.run_id, record.status) == ("quickstart-1", run.run_id, "FINISHED")
    assert run.folder == own_home / "runs" / run.name
    assert run.metrics.items() <= record.metrics.items()
    assert run.metrics["val/top1"] > 10
    assert Path(run.best.location).parent == Path(run.last.location).parent == run.folder
    assert run.best.top1 == max(run.best.top1, run.last.top1)

    with nothing_is_left(capfd):
        exec(evaluated, notebook)
    half, whole = [score for score in notebook["found"].scores if score.kind == "weights"]
    assert (half.ratio, whole.ratio, half.images) == (0.5, 1.0, 359)
    assert half.gmacs < whole.gmacs
    assert notebook["found"].checkpoint == Path(run.best.location)

    with nothing_is_left(capfd):
        exec(resumed, notebook)
    assert 1 <= len(notebook["accuracy"]) < 4  # the stop may arrive an epoch later
    (record,) = api.runs(where=["name=interrupted"])
    assert (record.status, record.tags["ltm.epoch"]) == ("FINISHED", "4/4")
    assert notebook["run"].metrics["val/top1"] == record.metrics["val/top1"]

    with nothing_is_left(capfd):
        exec(mistake, notebook)
    assert "recipe.epoch" in notebook["sentence"]
    assert [run.name for run in api.runs()] == ["interrupted", "quickstart-1"]


def test_a_rank_that_fails_is_a_run_error_and_the_run_has_failed(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pets = tmp_path / "pets"
    for label in ("cat", "dog"):
        (pets / label).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (32, 32), (number * 30, 0, 0)).save(pets / label / f"{number}.png")
    (pets / "dog" / "5.png").write_bytes(b"no image")
    settings = (f"data.path={pets}", "recipe.global_batch=4", "cluster.max_failures=0")
    with nothing_is_left(capfd), pytest.raises(api.RunError, match=r"dog/5\.png") as error:
        # Checks look at some of the images, and may find it.
        api.submit("quickstart", name="broken", overrides=(*TINY, *settings), force=True)
    assert error.value.log
    assert "dog/5.png" in error.value.log.read_text()
    (record,) = api.runs()
    assert (record.name, record.status) == ("broken", "FAILED")
    assert "dog/5.png" in (record.error or "")


def test_a_ray_of_the_caller_is_used_and_left_as_it_is(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_local_fs_capacity_threshold", "1")  # no word of Ray's on a full disk
    seen: list[RunEvent] = []

    def interrupt(event: RunEvent) -> None:
        seen.append(event)
        print(type(event).__name__)
        if isinstance(event, EpochEnded):
            os.kill(os.getpid(), signal.SIGINT)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    ray.init(address="local", num_cpus=2, include_dashboard=False)
    try:
        cluster = ray.get_runtime_context().gcs_address
        all_of_it = (*TINY, "cluster.cpus_per_worker=2")
        capfd.readouterr()
        with pytest.raises(KeyboardInterrupt):
            api.submit(
                "quickstart",
                name="mine",
                overrides=(*all_of_it, "recipe.epochs=500"),
                listener=interrupt,
            )
        shown = capfd.readouterr().out.splitlines()
        assert shown == [type(event).__name__ for event in seen]
        assert shown[:2] == ["RunBegins", "Started"]
        assert ray.is_initialized()
        assert ray.get_runtime_context().gcs_address == cluster
        assert api.status("mine").summary.state == "KILLED"
        with pytest.raises(api.UserError, match=r"ray\.shutdown"):
            api.tune("quickstart", ["lr"], overrides=TINY)

        # Nobody trains there any more: there is room for the next.
        seen.clear()
        with nothing_is_left(capfd):
            run = api.submit("quickstart", overrides=all_of_it)
            found = api.evaluate(run.name, workers=1)
        assert run.metrics["val/top1"] == run.best.top1
        assert {score.kind for score in found.scores} <= {"weights", "EMA"}
        assert ray.get_runtime_context().gcs_address == cluster
    finally:
        signal.signal(signal.SIGINT, usual)
        ray.shutdown()


def test_a_sweep_returns_what_its_trials_show(capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[object] = []
    with nothing_is_left(capfd):
        summary = api.tune(
            "quickstart",
            ["model.method=grid:none,ltm"],
            overrides=(*TINY, "model.compression_ratio=null"),
            listener=heard.append,
        )
    assert isinstance(heard[0], api.SweepBegins)
    assert {trial.state for trial in summary.trials} == {"finished"}
    assert summary.best in summary.trials
    assert summary.folder.name == heard[0].folder.name
    assert api.status(summary.folder.name).summary.state == "FINISHED"


def test_a_run_on_a_cluster_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    address = api.start_local_ray()[0].address
    try:
        printed: list[str] = []
        with nothing_is_left(capfd):
            assert api.goes_to_cluster(api.validate("quickstart"))
            run = api.submit("quickstart", name="sent", overrides=TINY, printed=printed.append)
            with pytest.raises(api.UserError, match=r"cluster\.workers is 64 .*only"):
                batch = "recipe.global_batch=64"
                api.submit("quickstart", overrides=(*TINY, batch, "cluster.workers=64"))
            assert api.local_ray() == api.LocalRay(address, ())
        assert any(line.startswith("epoch 1/1 ") for line in printed)
        record = tracking.find_run(run.tracking_uri, "sent")
        assert (record.status, record.run_id) == ("FINISHED", run.run_id)
        assert run.best.top1 == run.metrics["val/top1"] == record.metrics["val/top1"]
        assert Path(run.best.location, "model.safetensors").is_file()
        assert "epoch 1/1 " in "".join(api.logs("sent"))
    finally:
        api.stop_local_ray()
    assert api.local_ray() is None
