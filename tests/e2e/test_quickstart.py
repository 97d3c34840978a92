"""The first command of the README, and everything it promises."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

import ltm
from ltm_platform import tracking
from ltm_platform.data import open_dataset
from ltm_platform.data.loader import EvalLoader
from ltm_platform.data.pixels.exact import ExactEvaluation
from ltm_platform.data.pixels.on_device import ToNetwork
from ltm_platform.job import JobSpec

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess

    from mlflow.entities import Run

    from .conftest import Cli

STEP_METRICS = ("train/loss", "train/ce", "train/ib_bound", "train/lr")
EPOCH_METRICS = (
    "train/images_per_s",
    "val/top1",
    "val/top5",
    "val/loss",
    "val/ema_top1",
    "ib/mi_input",
    "ib/mi_label",
    "ib/loss",
)
MODEL_METRICS = (
    "model/gmacs",
    "model/gmacs_no_attention_matmul",
    "model/gmacs_base",
    "model/params_m",
    "bench/latency_ms",
    "bench/images_per_s",
)


@pytest.fixture(scope="module")
def finished(cli: Cli) -> CompletedProcess[str]:
    return cli("submit", "jobs/quickstart.yaml", "--name", "first", "--set", "recipe.epochs=8")


@pytest.fixture(scope="module")
def client(store: str) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


@pytest.fixture(scope="module")
def run(finished: CompletedProcess[str], store: str, client: MlflowClient) -> Run:
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return client.get_run(tracking.find_run(store, "first").run_id)


def test_the_held_out_digits_are_read(run: Run) -> None:
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val/top1"] >= 90
    assert run.data.metrics["model/gmacs"] < 0.8 * run.data.metrics["model/gmacs_base"]


def test_what_the_workers_say_is_in_its_log(run: Run, home: Path) -> None:
    assert run.info.status == "FINISHED"
    assert "RayTrainWorker" in (home / "runs/first/run.log").read_text()  # DeepSpeed's lines


def test_the_screen_is_calm_and_says_what_is_next(
    finished: CompletedProcess[str], run: Run
) -> None:
    lines = finished.stdout.splitlines()
    epochs = int(run.data.params["recipe.epochs"])
    assert sum(line.startswith("epoch ") for line in lines) == epochs
    assert len(lines) < epochs + 30, "something else was printed"
    assert "ltm-platform ui" in finished.stdout
    assert finished.stderr == ""


def test_every_metric_is_recorded_for_every_step_and_epoch(run: Run, client: MlflowClient) -> None:
    epochs = int(run.data.params["recipe.epochs"])
    steps = math.ceil(epochs * 1438 / int(run.data.params["recipe.global_batch"]))

    def history(key: str) -> list[float]:
        return [m.value for m in client.get_metric_history(run.info.run_id, key)]

    for key in STEP_METRICS:
        assert len(history(key)) == steps, key
    for key in EPOCH_METRICS:
        assert len(history(key)) >= epochs, key
    for key in MODEL_METRICS:
        assert len(history(key)) == 1, key
    assert all(math.isfinite(value) for value in run.data.metrics.values())
    assert any(key.startswith("system/") for key in run.data.metrics)


def test_the_resolved_job_is_kept(run: Run) -> None:
    path = download_artifacts(f"{run.info.artifact_uri}/job.yaml")
    job = JobSpec.load(path)
    chosen = {"model.plan": "{'blocks.0': 45}"}
    assert {k: str(v) for k, v in job.flat().items()} | chosen == run.data.params
    assert job.model.method == "ltm"
    assert job.model.compression_ratio == 0.7


@pytest.mark.parametrize("kind", ["best", "last"])
def test_its_checkpoints_hold_the_network_that_was_measured(
    run: Run, client: MlflowClient, home: Path, kind: str
) -> None:
    weights = download_artifacts(f"{run.info.artifact_uri}/checkpoints/{kind}/model.safetensors")
    model = ltm.create_model(
        run.data.params["model.backbone"],
        compression_ratio=0.7,
        num_classes=10,
        checkpoint=weights,
    ).eval()
    val = open_dataset("digits", cache=home / "cache", val_fraction=0.2).val
    to_network = ToNetwork(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    loader = EvalLoader(val, ExactEvaluation(32), batch=64, rank=0, world_size=1, workers=0)
    with torch.inference_mode():
        hits = sum(
            int(((model(to_network(images)).argmax(1) == labels) & valid).sum())
            for images, labels, valid in loader
        )
    tops = [m.value for m in client.get_metric_history(run.info.run_id, "val/top1")]
    expected = max(tops) if kind == "best" else tops[-1]
    assert 100 * hits / len(val) == pytest.approx(expected, abs=0.3)  # one image, for rounding


def test_its_best_network_is_a_model_that_takes_images(
    run: Run, client: MlflowClient, home: Path, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    classifier = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/best")
    val = open_dataset("digits", cache=home / "cache", val_fraction=0.2).val
    files, labels = zip(*val.read(range(len(val))), strict=True)
    answers = classifier.predict(list(files))
    hits = answers.columns.get_indexer(answers.idxmax(axis=1)) == np.array(labels)
    tops = [m.value for m in client.get_metric_history(run.info.run_id, "val/top1")]
    assert 100 * hits.mean() == pytest.approx(max(tops), abs=0.3)  # one image, for rounding


@pytest.mark.parametrize("name", ["heatmaps", "confusion matrix"])
def test_pictures_of_its_best_network_are_kept(run: Run, client: MlflowClient, name: str) -> None:
    files = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    best = max(client.get_metric_history(run.info.run_id, "val/top1"), key=lambda m: m.value)
    assert sum(f.startswith(f"images/{name}+step+{best.step}+") for f in files) == 2  # PNG, WebP
    assert run.data.tags["mlflow.loggedImages"]
    assert run.data.tags["ltm.method_rule"] == "published"


def test_runs_are_listed_for_people_and_for_scripts(run: Run, cli: Cli) -> None:
    assert "first" in cli("runs").stdout
    listed = json.loads(cli("runs", "--json").stdout)
    (first,) = [entry for entry in listed if entry["name"] == "first"]
    assert first["status"] == "FINISHED"
    assert first["metrics"]["val/top1"] == run.data.metrics["val/top1"]
    assert first["params"]["engine.zero_stage"] == "1"


def test_a_finished_run_has_nothing_to_resume(run: Run, cli: Cli) -> None:
    refused = cli("resume", run.info.run_name)
    assert refused.returncode == 2
    assert "has finished" in refused.stderr
