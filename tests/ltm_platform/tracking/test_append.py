"""What is added to a run that has ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_platform.job import JobSpec
from ltm_platform.tracking import find_run, tracked_run
from ltm_platform.tracking.append import add_curve, end_run
from ltm_platform.tracking.store import connect

if TYPE_CHECKING:
    from collections.abc import Mapping

CURVE = {500: {"top1": 50.0}, 1000: {"top1": 60.0}}


@pytest.fixture
def run_id(store: str) -> str:
    job = JobSpec.load("quickstart", [f"tracking.uri={store}"])
    with tracked_run(job, "one", Path("/runs/one")) as run:
        pass
    return run.run_id


def points(store: str, run_id: str, key: str) -> list[tuple[int, float]]:
    rows = connect(store).get_metric_history(run_id, key)
    return sorted((row.step, row.value) for row in rows)


def add(store: str, run_id: str, curve: Mapping[int, Mapping[str, float]], source: str) -> str:
    return add_curve(store, run_id, curve, [], "pareto", source)


def test_a_curve_is_recorded_with_its_files_and_its_source(
    store: str, run_id: str, tmp_path: Path
) -> None:
    picture = tmp_path / "curve.png"
    picture.write_bytes(b"picture")
    assert add_curve(store, run_id, CURVE, [picture], "pareto", "checkpoint_a") == "pareto"
    assert points(store, run_id, "pareto/top1") == [(500, 50.0), (1000, 60.0)]
    files = [item.path for item in connect(store).list_artifacts(run_id, "pareto")]
    assert files == ["pareto/curve.png"]
    assert find_run(store, "one").tags["ltm.pareto_of"] == "checkpoint_a"
    assert find_run(store, "one").status == "FINISHED"


def test_the_same_source_adds_only_what_is_new(store: str, run_id: str) -> None:
    add(store, run_id, CURVE, "checkpoint_a")
    assert add(store, run_id, CURVE | {700: {"top1": 55.0}}, "checkpoint_a") == "pareto"
    assert points(store, run_id, "pareto/top1") == [(500, 50.0), (700, 55.0), (1000, 60.0)]


def test_another_source_has_a_curve_of_its_own(store: str, run_id: str) -> None:
    add(store, run_id, CURVE, "checkpoint_a")
    assert add(store, run_id, {500: {"top1": 1.0}}, "checkpoint_b") == "pareto_2"
    assert add(store, run_id, {600: {"top1": 2.0}}, "checkpoint_b") == "pareto_2"
    assert points(store, run_id, "pareto/top1") == [(500, 50.0), (1000, 60.0)]
    assert points(store, run_id, "pareto_2/top1") == [(500, 1.0), (600, 2.0)]


def test_a_run_gets_the_end_that_it_had(store: str, run_id: str) -> None:
    end_run(store, run_id, "FAILED", "the machine is gone", ended_ms=5)
    run = find_run(store, "one")
    assert (run.status, run.error, run.ended_ms) == ("FAILED", "the machine is gone", 5)
