"""Where the store is, and how it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.tracking import connect_meanwhile, list_runs, tracking_uri

if TYPE_CHECKING:
    from pathlib import Path

    from tests.ltm_platform.conftest import Race


def test_by_default_the_store_lies_in_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path))
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"


def test_the_variable_wins_over_the_default_and_the_job_over_the_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////of/the/variable.db")
    assert tracking_uri() == "sqlite:////of/the/variable.db"
    assert tracking_uri("http://of.the.job:5000") == "http://of.the.job:5000"


def test_a_relative_sqlite_path_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("sqlite:///mine.db") == f"sqlite:///{tmp_path}/mine.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///a/../its.db")
    assert tracking_uri() == f"sqlite:///{tmp_path}/its.db"


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/data/mlruns", "file:///data/mlruns"])
def test_a_folder_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="must be a database") as error:
        tracking_uri(uri)
    assert repr(uri) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_store_is_there_once_it_was_connected_meanwhile(tmp_path: Path) -> None:
    connect_meanwhile(f"sqlite:///{tmp_path / 'mlflow.db'}").join()
    assert (tmp_path / "mlflow.db").exists()


OPEN_STORE = """
import sys
from pathlib import Path
import mlflow
from ltm_platform.job import JobSpec
from ltm_platform.tracking import tracked_run
job = JobSpec.load("quickstart", ["tracking.uri=" + sys.argv[1]])
print("ready", flush=True)
sys.stdin.readline()
with tracked_run(job, sys.argv[2], Path(".")):
    pass
"""


@pytest.mark.slow
def test_two_processes_may_open_a_new_store_at_once(tmp_path: Path, race: Race) -> None:
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    names = ["digits-1", "digits-2"]
    race(OPEN_STORE, *((uri, name) for name in names))
    assert sorted((run.name, run.status) for run in list_runs(uri)) == [
        (name, "FINISHED") for name in names
    ]
