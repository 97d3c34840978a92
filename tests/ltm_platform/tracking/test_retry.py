"""A real MLflow server that is lost in the middle of a run, and a real PostgreSQL behind one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_platform.errors import RunError, UserError
from ltm_platform.events import Decided, Progress
from ltm_platform.job import JobSpec
from ltm_platform.tracking import check_usable, find_run, list_runs, record, serving_ui, tracked_run
from ltm_platform.tracking.store import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path("/runs/digits-1")
PATIENCE_S = 300


@contextmanager
def served(store: str, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with serving_ui(store, "127.0.0.1", port, folder / "server.log") as server:
        yield server


def kill(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def job(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> JobSpec:
    monkeypatch.chdir(tmp_path)  # where the server keeps artifacts
    return JobSpec.load("quickstart", [f"tracking.uri=http://127.0.0.1:{port}"])


def steps(first: int, last: int) -> list[Progress]:
    return [
        Progress(step, 0, {"train/loss": 1.0 / step}, time_ms=step)
        for step in range(first, last + 1)
    ]


@pytest.mark.slow
def test_a_server_that_is_lost_for_a_while_misses_nothing(
    store: str, job: JobSpec, port: int, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    uri = f"http://127.0.0.1:{port}"
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    with ExitStack() as servers:
        server = servers.enter_context(served(store, port, tmp_path))
        with tracked_run(job, "digits-1", FOLDER) as run:
            for event in steps(1, 50):
                run(event)
            run.flush()
            kill(server)
            for event in [*steps(51, 1500), Decided("micro_batch", "8", "found")]:
                run(event)  # training goes on: nothing here waits
            upload = threading.Thread(target=run.log_files, args=([weights], "checkpoints/best"))
            upload.start()
            with pytest.raises(RunError, match="has been away"):
                run.flush(limit_s=0.5)
            assert upload.is_alive()
            servers.enter_context(served(store, port, tmp_path))
            for event in steps(1501, 1600):
                run(event)
            upload.join(PATIENCE_S)
        client = MlflowClient(uri)
        found = client.get_metric_history(run.run_id, "train/loss")
        files = client.list_artifacts(run.run_id, "checkpoints/best")
        ended = client.get_run(run.run_id)
    assert [metric.step for metric in found] == list(range(1, 1601))
    assert [file.path for file in files] == ["checkpoints/best/model.safetensors"]
    assert ended.data.tags["ltm.micro_batch"] == "8"
    assert ended.info.status == "FINISHED"


@pytest.mark.slow
def test_what_is_not_recorded_when_a_run_is_interrupted_comes_when_it_goes_on(
    store: str, job: JobSpec, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(record, "INTERRUPTED_S", 0.2)
    with (
        served(store, port, tmp_path) as server,
        pytest.raises(KeyboardInterrupt),
        tracked_run(job, "stopped", tmp_path) as run,
    ):
        for event in steps(1, 10):
            run(event)
        run.flush()
        kill(server)
        for event in [*steps(11, 20), Decided("micro_batch", "8", "found")]:
            run(event)
        raise KeyboardInterrupt
    assert find_run(store, "stopped").status == "RUNNING"  # nobody was there to be told
    same = job.replace("tracking.uri", store)
    with tracked_run(same, "stopped", tmp_path, run_id=run.run_id) as again:
        for event in steps(15, 25):
            again(event)
    client = MlflowClient(store)
    found = client.get_metric_history(run.run_id, "train/loss")
    assert [metric.step for metric in found] == list(range(1, 26))
    ended = client.get_run(run.run_id)
    assert ended.data.tags["ltm.micro_batch"] == "8"
    assert ended.info.status == "FINISHED"


@pytest.mark.slow
def test_an_experiment_that_was_deleted_on_a_server_is_told_early(
    store: str, port: int, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    uri = f"http://127.0.0.1:{port}"
    client = MlflowClient(tracking_uri=store)
    client.delete_experiment(client.create_experiment("mine"))
    client.create_experiment("other")
    with served(store, port, tmp_path):
        check_usable(uri, "other")
        check_usable(uri, "new")
        with pytest.raises(UserError, match="restore --experiment-id 1"):
            check_usable(uri, "mine")


POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)), None)


class Postgres:
    """A database server of this test alone."""

    def __init__(self, folder: Path, port: int) -> None:
        self.uri = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._data = folder / "data"
        self._settings = f"-p {port} -c fsync=off -c listen_addresses=127.0.0.1 -k {folder}"
        self._call("initdb", "--no-sync", "--auth=trust", "--username=postgres")

    def start(self) -> None:
        log = str(self._data / "log")
        self._call("pg_ctl", "--wait", "--log", log, "-o", self._settings, "start")

    def stop(self) -> None:
        self._call("pg_ctl", "--wait", "--mode=immediate", "stop")

    def _call(self, program: str, *args: str) -> None:
        assert POSTGRES
        command = [str(POSTGRES.with_name(program)), "-D", str(self._data), *args]
        # PostgreSQL does not run as root.
        user = "postgres" if os.getuid() == 0 else None
        subprocess.run(command, user=user, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory(prefix="ltm-postgres-") as folder:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        server = Postgres(Path(folder), free_port())
        server.start()
        yield server
        server.stop()


@pytest.mark.slow
@pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL (apt-get install postgresql)")
def test_a_team_shares_a_server_with_postgresql(
    postgres: Postgres, job: JobSpec, port: int, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    uri = f"http://127.0.0.1:{port}"
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    with served(postgres.uri, port, tmp_path):
        with tracked_run(job, "one", FOLDER) as one, tracked_run(job, "two", FOLDER) as two:
            for event in steps(1, 100):
                one(event)
                two(event)
            one.flush()
            postgres.stop()  # the database goes away behind the server
            for event in steps(101, 200):
                one(event)
                two(event)
            with pytest.raises(RunError, match="has been away"):
                two.flush(limit_s=0.5)
            postgres.start()
            one.log_files([weights], "checkpoints/best")
        client = MlflowClient(uri)
        for run in (one, two):
            found = client.get_metric_history(run.run_id, "train/loss")
            assert [metric.step for metric in found] == list(range(1, 201))
        files = client.list_artifacts(one.run_id, "checkpoints/best")
        assert [file.path for file in files] == ["checkpoints/best/model.safetensors"]
        assert {run.name for run in list_runs(uri)} == {"one", "two"}
    assert find_run(postgres.uri, "two").status == "FINISHED"


def test_a_servers_password_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = connect(f"http://me:sesame@127.0.0.1:{free_port()}").patient(limit_s=0.1)
    with pytest.raises(UserError, match="does not answer"):
        client.get_run("1" * 32)
    assert caplog.records
    assert "sesame" not in caplog.text
