"""What version 0.1 stored still resumes, evaluates, predicts, exports and loads."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from mlflow import MlflowClient
from safetensors import safe_open
from safetensors.torch import load_file

import ltm

from ..version_0_1 import Stored, unpack
from .conftest import command_line
from .forks import Forks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities import Run

    from .conftest import Cli

pytestmark = pytest.mark.slow

EPOCHS, STEPS = 3, 18
PREDICT = """
import json, sys
import mlflow
network = mlflow.pyfunc.load_model(sys.argv[1])
rows = network.predict(sys.argv[2:]).to_dict("records")
print(json.dumps({"rows": rows, "code": sys.modules["ltm"].__file__}))
"""

CLASSES = ["columns", "diagonal", "rows"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    return unpack(tmp_path_factory.mktemp("version-0.1"))


@pytest.fixture(scope="module")
def environment(environment: dict[str, str], stored: Stored) -> dict[str, str]:
    return environment | {"LTM_PLATFORM_HOME": str(stored.home)}


@pytest.fixture(scope="module")
def cli(environment: dict[str, str], stored: Stored) -> Iterator[Cli]:
    """In the folder of the archive: expected results name images by paths that begin there."""
    with closing(Forks(environment)) as forks:
        yield command_line(environment, stored.folder, forks)


@pytest.fixture(scope="module")
def client(stored: Stored) -> MlflowClient:
    return MlflowClient(tracking_uri=stored.store)


def find(client: MlflowClient, name: str) -> Run:
    (experiment,) = client.search_experiments(filter_string="name = 'ltm-platform'")
    (run,) = client.search_runs(
        [experiment.experiment_id], filter_string=f"attributes.run_name = '{name}'"
    )
    return run


def curve(client: MlflowClient, run: Run, key: str) -> dict[int, float]:
    """By step, each of which is recorded once."""
    history = client.get_metric_history(run.info.run_id, key)
    values = {metric.step: metric.value for metric in history}
    assert len(values) == len(history), key
    return values


def test_a_stopped_run_goes_on_as_the_one_that_was_not_stopped(
    cli: Cli, client: MlflowClient, stored: Stored
) -> None:
    assert find(client, "stopped").info.status == "KILLED"
    # Version 0.1 did not smooth labels once the bound had begun, which is where the run stopped.
    job = stored.home / "runs" / "stopped" / "job.yaml"
    smoothed = job.read_text()
    assert "label_smoothing: 0.1" in smoothed
    job.write_text(smoothed.replace("label_smoothing: 0.1", "label_smoothing: 0.0"))
    done = cli("resume", "stopped")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on after epoch 1" in done.stdout
    run, undisturbed = find(client, "stopped"), find(client, "finished")
    assert run.info.status == "FINISHED"
    for key in ("train/loss", "train/ce", "train/ib_bound", "train/lr"):
        losses = curve(client, run, key)
        assert sorted(losses) == list(range(1, STEPS + 1)), key
        assert losses == pytest.approx(curve(client, undisturbed, key), rel=1e-3), key
    for key in ("val/loss", "val/top1", "val/ema_top1", "ib/loss"):
        epochs = curve(client, run, key)
        assert len(epochs) == EPOCHS, key
        assert epochs == pytest.approx(curve(client, undisturbed, key), rel=1e-3), key


def test_runs_are_listed(cli: Cli) -> None:
    done = cli("runs", "--json")
    assert done.returncode == 0, done.stderr
    runs = {run["name"]: run for run in json.loads(done.stdout)}
    assert runs.keys() == {"finished", "stopped"}
    assert runs["finished"]["status"] == "FINISHED"
    assert runs["finished"]["metrics"]["val/top1"] == pytest.approx(700 / 12)
    assert runs["finished"]["params"]["model.backbone"] == "vit_nano_patch4_32"


def test_a_finished_run_scores_on_stored_shards_as_it_did(cli: Cli, stored: Stored) -> None:
    shards = ("--data", str(stored.shards))
    done = cli("evaluate", "finished", *shards, "--last", "--workers", "1", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    expected = stored.expected["evaluate"]
    assert len(rows) == len(expected)
    for row, before in zip(rows, expected, strict=True):
        assert (row["kind"], row["images"]) == (before["kind"], before["images"])
        for key in ("top1", "top5", "loss", "gmacs"):
            assert row[key] == pytest.approx(before[key], rel=1e-4), key


def test_a_finished_run_predicts_as_it_did(cli: Cli, stored: Stored) -> None:
    expected = stored.expected["predict"]
    done = cli("predict", "finished", *(one["image"] for one in expected), "--json")
    assert done.returncode == 0, done.stderr
    for row, before in zip(json.loads(done.stdout), expected, strict=True):
        assert row["image"] == before["image"]
        # The names of the classes are those of the run's data, which has moved.
        numbered = {str(CLASSES.index(name)): share for name, share in by_class(before).items()}
        assert by_class(row) == pytest.approx(numbered, abs=1e-4)


def by_class(prediction: dict[str, Any]) -> dict[str, float]:
    return {guess["label"]: guess["probability"] for guess in prediction["guesses"]}


def test_a_finished_run_is_exported_and_computes_what_it_did(
    cli: Cli, stored: Stored, tmp_path: Path
) -> None:
    path = tmp_path / "finished.safetensors"
    done = cli("export", "finished", "--format", "safetensors", "--out", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    weights = load_file(path)
    kept = load_file(stored.checkpoint("finished") / "model.safetensors")
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in kept)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["ltm.classes"]) == ["0", "1", "2"]

    model = ltm.create_model(
        "vit_nano_patch4_32",
        compression_ratio=0.7,
        image_size=32,
        num_classes=3,
        checkpoint=path,
    ).eval()
    image = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.inference_mode():
        logits = model(torch.cat([image, -image]))
    torch.testing.assert_close(
        logits, torch.tensor(stored.expected["logits"]), rtol=1e-4, atol=1e-4
    )


def test_a_logged_model_predicts_with_the_code_that_lies_beside_it(
    client: MlflowClient, environment: dict[str, str], stored: Stored
) -> None:
    expected = stored.expected["predict"]
    images = [one["image"] for one in expected]
    uri = f"runs:/{find(client, 'finished').info.run_id}/best"
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, uri, *images],
        cwd=stored.folder,
        env=environment | {"MLFLOW_TRACKING_URI": stored.store},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert Path(answer["code"]).parts[-3:] == ("code", "ltm", "__init__.py")
    for row, before in zip(answer["rows"], expected, strict=True):
        assert row == pytest.approx(by_class(before), abs=1e-4)


def test_shards_are_in_order(cli: Cli, stored: Stored) -> None:
    done = cli("data", "check", str(stored.shards), "--decode-all", "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert "36 images in 2 shards are in order; 36 of them were decoded" in done.stdout
