"""A run's folder: what it is called, where it lies and who has it."""

from __future__ import annotations

import os
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.storage import contact
from ltm_platform.storage.files import SWEEP_FILE, written_whole
from ltm_platform.storage.resume_plan import restored_folder
from ltm_platform.storage.run_folder import Resume, RunFolder

if TYPE_CHECKING:
    from tests.ltm_platform.conftest import Race

RESERVE = """
import sys
from ltm_platform.job import JobSpec
from ltm_platform.storage.run_folder import RunFolder
job = JobSpec.load("quickstart")
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    print(RunFolder.reserve(job).name)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def job() -> JobSpec:
    return JobSpec.load("quickstart")


def test_runs_are_numbered(job: JobSpec, home: Path) -> None:
    folders = [RunFolder.reserve(job) for _ in range(3)]
    assert [folder.name for folder in folders] == ["quickstart-1", "quickstart-2", "quickstart-3"]
    assert folders[0].path == home / "runs/quickstart-1"
    assert folders[0].path.is_dir()


def test_a_number_that_is_taken_is_left_out(job: JobSpec, home: Path) -> None:
    (home / "runs/quickstart-2").mkdir(parents=True)
    assert [RunFolder.reserve(job).name for _ in range(2)] == ["quickstart-1", "quickstart-3"]


def test_a_name_is_taken_once(job: JobSpec) -> None:
    folder = RunFolder.reserve(job, "mine")
    assert folder.name == "mine"
    folder.job.write_text("kept")
    folder.belongs_to("its id in MLflow")
    with pytest.raises(UserError, match="a run named 'mine' exists already") as error:
        RunFolder.reserve(job, "mine")
    assert "ltm-platform resume mine" in str(error.value)
    assert folder.job.read_text() == "kept"


def test_a_run_that_was_killed_before_it_was_recorded_can_be_submitted_again(
    job: JobSpec,
) -> None:
    folder = RunFolder.reserve(job, "mine")
    (folder.path / ".job.4711.part.yaml").touch()
    with folder.locked():
        folder.log.touch()
        with pytest.raises(UserError, match="a run named 'mine' exists already"):
            RunFolder.reserve(job, "mine")
    assert RunFolder.reserve(job, "mine") == folder
    (folder.path / "somebody's").touch()
    with pytest.raises(UserError, match="a run named 'mine' exists already"):
        RunFolder.reserve(job, "mine")


def test_one_process_at_a_time_trains_a_run(job: JobSpec) -> None:
    folder = RunFolder.reserve(job)
    with folder.locked(), pytest.raises(UserError, match="another process"), folder.locked():
        pass
    with folder.locked():
        pass


def test_the_jobs_storage_holds_its_runs(job: JobSpec, home: Path, tmp_path: Path) -> None:
    storage = tmp_path / "shared/storage"
    folder = RunFolder.reserve(job.replace("cluster.storage", str(storage)))
    assert folder.path == storage / "quickstart-1"
    assert folder.path.is_dir()
    assert not home.exists()


def test_two_processes_at_once_get_different_names(home: Path, race: Race) -> None:
    names = " ".join(race(RESERVE, (), ())).split()
    expected = {f"quickstart-{number}" for number in range(1, 41)}
    assert len(names) == 40
    assert set(names) == expected
    assert {folder.name for folder in (home / "runs").iterdir()} == expected


def test_the_process_that_has_a_run_is_known_while_it_has_it(job: JobSpec) -> None:
    folder = RunFolder.reserve(job)
    assert (folder.is_locked(), folder.pid) == (False, None)
    with folder.locked():
        assert (folder.is_locked(), folder.pid) == (True, os.getpid())
    assert (folder.is_locked(), folder.pid) == (False, None)


def test_a_trial_is_owned_by_its_sweep(job: JobSpec) -> None:
    sweep = RunFolder.reserve(job, "sweep")
    trial = RunFolder(sweep.path / "trials" / "sweep-001")
    assert (sweep.is_sweep, sweep.owner, trial.owner) == (False, sweep, trial)
    (sweep.path / SWEEP_FILE).touch()
    assert (sweep.is_sweep, sweep.owner, trial.owner) == (True, sweep, sweep)


def test_a_storage_that_cannot_be_written_to_cannot_stop_a_run(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"cannot be asked to stop.*'stop --now' ends it"):
        run.request_stop()


def test_a_store_that_is_away_cannot_stop_a_run(
    job: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact, "CONTACT_S", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        run = RunFolder.reserve(job)
        run.store_at("s3://bucket/runs")
        sentence = r"s3://bucket/runs cannot be written to: .* gave no answer .*'stop --now' ends"
        with pytest.raises(UserError, match=sentence):
            run.request_stop()
        with pytest.raises(
            UserError, match=r"^cluster\.storage: s3://bucket/runs cannot be reached"
        ):
            restored_folder("lost", "s3://bucket/runs")


@pytest.mark.parametrize(
    ("changes", "rewound", "alters"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"recipe.lr": "0.1 -> 0.2"}, False, True),
        ({"cluster.workers": "2 -> 4"}, False, False),
    ],
)
def test_what_makes_steps_come_out_differently(
    changes: dict[str, str], rewound: bool, alters: bool
) -> None:
    assert Resume("0", changes, rewound).alters_training == alters


def test_what_a_killed_process_was_writing_is_gone_once_the_run_is_taken_up(job: JobSpec) -> None:
    sweep = RunFolder.reserve(job, "sweep")
    trial = sweep.path / "trials" / "sweep-1"
    trial.mkdir(parents=True)
    (sweep.path / SWEEP_FILE).touch()
    parts = []
    with pytest.MonkeyPatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        for folder in (sweep.path, trial):
            with suppress(KeyboardInterrupt), written_whole(folder / "job.yaml") as part:
                part.write_text("half")
                parts.append(part)
                raise KeyboardInterrupt
    assert all(part.exists() for part in parts)
    with sweep.locked():
        assert not any(part.exists() for part in parts)
