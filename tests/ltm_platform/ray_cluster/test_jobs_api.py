"""What goes to a cluster, how it gets there and what it may not hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ltm_platform.api.sending import options_of
from ltm_platform.cli.commands import tune
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.ray_cluster import jobs_api
from ltm_platform.ray_cluster.jobs_api import (
    Request,
    arguments,
    check_no_password,
    check_store,
)
from ltm_platform.runs.driver import location_tags
from ltm_platform.tracking.runs import CLUSTER_TAG, SUBMISSION_TAG
from ltm_platform.tuning.spec import Sweep

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


# --- what goes along


def test_the_shell_there_sees_nothing_that_the_user_typed() -> None:
    assert set(jobs_api.ENTRY) <= set("abcdefghijklmnopqrstuvwxyz_.- ")


def test_a_request_arrives_as_it_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["resume", "x", "--set", "recipe.lr=$(touch /tmp/x); `id` 'a' \"b\""]
    sent = {
        "args": words,
        "job": None,
        "cluster": "http://head:8265",
        "submission": "x~1",
        "typed": [],
    }
    assert Request.here() is None
    assert set(location_tags().values()) & {"http://head:8265", "x~1"} == set()
    monkeypatch.setenv(jobs_api.REQUEST, json.dumps(sent))
    request = Request.here()
    assert request
    assert arguments(request, tmp_path) == words
    tags = location_tags()
    assert (tags[CLUSTER_TAG], tags[SUBMISSION_TAG]) == ("http://head:8265", "x~1")


def test_the_job_arrives_complete(tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", ["recipe.epochs=3"])
    request = Request(("submit", "--name", "x"), job.to_yaml(), "http://head:8265", "x~1")
    command, file, *rest = arguments(request, tmp_path)
    assert (command, rest) == ("submit", ["--name", "x"])
    assert JobSpec.load(file) == job


def test_a_sweep_arrives_as_it_was_asked_for(tmp_path: Path) -> None:
    job = JobSpec.load("quickstart", ["cluster.workers=[1, 2]"])
    sweep = Sweep(
        name="s",
        job=job.to_dict(),
        params=("model.method=choice:ltm,tome", "recipe.lr=log:1e-4:1e-2"),
        objectives=("val/top1:max", "model/gmacs"),
        trials=5,
        scheduler="asha",
        grace=2,
    )
    words = ("tune", "--name", "s", *options_of(sweep, job))
    found = arguments(Request(words, job.to_yaml(), "http://head:8265", "s~1"), tmp_path)
    options = tune.command.make_context("tune", found[1:]).params
    sent = JobSpec.load(options["job"], options["overrides"])
    assert sent.cluster.workers == (1, 2)
    assert sent.where("cluster.workers").startswith("--set")  # not the default of a sweep
    for name in ("params", "search", "trials", "scheduler", "grace", "seed", "protocol", "name"):
        assert options[name] == getattr(sweep, name), name
    assert options["objectives"] == sweep.objectives


def test_a_store_that_the_cluster_cannot_see_is_refused() -> None:
    job = JobSpec.load("quickstart")
    with pytest.raises(UserError, match="a file on this machine, which the cluster"):
        check_store("sqlite:////home/me/mlflow.db", "http://head:8265", job)
    check_store("http://127.0.0.1:5000", "http://head:8265", job)


def test_a_cluster_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no Ray cluster answers at http://127\.0\.0\.1:1"):
        jobs_api.JobsClient("http://127.0.0.1:1")


def test_a_password_is_not_sent_and_not_shown() -> None:
    check_no_password("http://mlflow:5000")
    with pytest.raises(UserError, match=r"postgresql://\*\*\*@db/mlflow") as refused:
        check_no_password("postgresql://me:secret@db/mlflow")
    assert "secret" not in str(refused.value)
