"""Finding runs again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.tracking import find_run, list_runs, tracked_run

FOLDER = Path("/runs/digits-1")


@pytest.fixture
def job(store: str) -> JobSpec:
    return JobSpec.load("quickstart", [f"tracking.uri={store}"])


def test_runs_of_all_experiments_are_listed_the_newest_first(job: JobSpec, store: str) -> None:
    other = job.replace("tracking.experiment", "other")
    for one, name in ((job, "digits-1"), (other, "photos-1"), (job, "digits-2")):
        with tracked_run(one, name, FOLDER):
            pass
    runs = [(run.name, run.experiment) for run in list_runs(store)]
    assert runs == [
        ("digits-2", "ltm-platform"),
        ("photos-1", "other"),
        ("digits-1", "ltm-platform"),
    ]


def test_a_store_that_does_not_exist_has_no_runs_and_is_not_made(tmp_path: Path) -> None:
    assert list_runs(f"sqlite:///{tmp_path}/none/mlflow.db") == []
    assert not list(tmp_path.iterdir())


def test_the_newest_run_of_a_name_is_found(job: JobSpec, store: str) -> None:
    ids = []
    for name in ("digits-1", "digits-1", "digits-2"):
        with tracked_run(job, name, FOLDER) as run:
            ids.append(run.run_id)
    assert find_run(store, "digits-1").run_id == ids[1]


def test_a_wrong_name_is_told_with_the_nearest(job: JobSpec, store: str) -> None:
    for name in ("digits-1", "photos-1"):
        with tracked_run(job, name, FOLDER):
            pass
    with pytest.raises(UserError, match="did you mean 'digits-1'") as error:
        find_run(store, "digit-1")
    assert len(str(error.value).splitlines()) == 1
