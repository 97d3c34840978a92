"""A store that is damaged, locked or deleted costs one sentence; one that is new is made whole."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ltm_platform.compat import mlflow as compat
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.tracking import (
    check_usable,
    find_run,
    list_runs,
    sqlite_file,
    tracked_run,
)
from ltm_platform.tracking.store import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ltm_platform.conftest import Run


def cut_off(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def overwrite(database: Path) -> None:
    """The pages after the first, as a disk may lose them."""
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))


def flip_in_schema(database: Path) -> None:
    """A bit of a table's definition, which sqlite then quotes as it is."""
    data = database.read_bytes()
    database.write_bytes(
        data.replace(b"CREATE TABLE alembic_version", b"CREATE TABLE\xc5alembic_version")
    )


def execute(statement: str) -> Callable[[Path], None]:
    def run(database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(statement)

    return run


def make_folder(database: Path) -> None:
    database.unlink()
    database.mkdir()


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "is no database": (lambda database: database.write_text("hello" * 100), "no sqlite database"),
    "is cut off": (cut_off, "is cut off after"),
    "is cut off in its header": (lambda database: os.truncate(database, 50), "is cut off after"),
    "is empty": (lambda database: os.truncate(database, 0), "is empty"),
    "is overwritten": (overwrite, "is damaged"),
    "has a flipped bit in its schema": (flip_in_schema, "is damaged"),
    "is a folder": (make_folder, "Is a directory"),
    "is half-made": (execute("DELETE FROM alembic_version"), "half-made"),
    "is another program's": (execute("DROP TABLE alembic_version"), "is no store of MLflow"),
    "is older": (
        execute("UPDATE alembic_version SET version_num = '451aebb31d03'"),
        "mlflow db upgrade sqlite:///",
    ),
    "is newer": (execute("UPDATE alembic_version SET version_num = 'fff'"), "a newer MLflow"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_store_is_one_sentence(
    how: str, store: str, call_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, words = BROKEN[how]
    database = Path(store.removeprefix("sqlite:///"))
    damage(database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    answer = call_here("list")
    assert answer.code == 2, answer
    assert len(answer.err.strip().splitlines()) == 1, answer.err
    assert words in answer.err
    assert str(database) in answer.err
    with pytest.raises(UserError, match="tracking store"):
        check_usable(store, "e")


def test_a_store_that_is_locked_is_waited_for(store: str) -> None:
    database = Path(store.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(database, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        threading.Timer(1.0, other.rollback).start()
        assert list_runs(store) == []


HOLD = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1])
other.execute("BEGIN EXCLUSIVE")
print("ready", flush=True)
sys.stdin.readline()
"""


def test_who_locks_a_store_for_too_long_is_named(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "LOCKED_S", 0.1)
    database = store.removeprefix("sqlite:///")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, database], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(UserError, match=rf"locked .* by .*\(process {other.pid}\)"):
            list_runs(store)
        with pytest.raises(UserError, match="locked"):
            check_usable(store, "e")
        other.communicate()
    assert list_runs(store) == []


def job_in(store: str) -> JobSpec:
    return JobSpec.load("quickstart", [f"tracking.uri={store}", "tracking.experiment=mine"])


def test_an_experiment_that_was_deleted_is_one_sentence(store: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    with tracked_run(job_in(store), "one", tmp_path):
        pass
    experiment = client.get_experiment_by_name("mine")
    assert experiment
    client.delete_experiment(experiment.experiment_id)
    remedy = f"restore --experiment-id {experiment.experiment_id}"
    with (
        pytest.raises(UserError, match=f"{remedy}', or name another"),
        tracked_run(job_in(store), "two", tmp_path),
    ):
        pass
    with pytest.raises(UserError, match=remedy) as early:
        check_usable(store, "mine")
    assert "tracking.experiment" in early.value.fields
    with pytest.raises(UserError, match=f"'one' was deleted .*{remedy}"):
        find_run(store, "one")
    client.restore_experiment(experiment.experiment_id)
    assert find_run(store, "one").status == "FINISHED"


def test_a_run_that_was_deleted_is_one_sentence(store: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    with (
        pytest.raises(UserError, match="was deleted in MLflow's pages"),
        tracked_run(job_in(store), "one", tmp_path) as run,
    ):
        client.delete_run(run.run_id)
        run.tag("ltm.note", "lost")
    with pytest.raises(UserError, match=f"'one' was deleted .*runs restore --run-id {run.run_id}"):
        find_run(store, "one")


MAKE = """
import sys
from pathlib import Path
from ltm_platform.compat import mlflow
from ltm_platform.tracking import sqlite_file
import mlflow.store.db.utils
print("ready", flush=True)
sqlite_file.ensure(Path(sys.argv[1]))
print("made", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.5, 1.0, 2.0])
def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path, delay_s: float) -> None:
    database = tmp_path / "mlflow.db"
    with subprocess.Popen(
        [sys.executable, "-c", MAKE, str(database)], stdout=subprocess.PIPE
    ) as making:
        assert making.stdout
        assert making.stdout.readline() == b"ready\n"
        threading.Timer(delay_s, making.send_signal, [signal.SIGKILL]).start()
        making.wait()
    assert list_runs(f"sqlite:///{database}") == []
    sqlite_file.ensure(database)
    assert not list(tmp_path.glob(".*.part"))


def test_what_a_killed_making_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".mlflow.db.4242.part"
    left.write_bytes(b"SQLite format 3\0")
    sqlite_file.ensure(tmp_path / "mlflow.db")
    assert not left.exists()
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        assert connection.execute(compat.REVISION_QUERY).fetchall() == [(compat.revisions()[0],)]


def test_a_store_that_another_program_made_meanwhile_is_kept(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "raced.db"
    theirs = Path(store.removeprefix("sqlite:///")).read_bytes()

    def be_slower(part: Path) -> None:
        part.write_bytes(b"ours")
        database.write_bytes(theirs)

    monkeypatch.setattr(sqlite_file, "make_tables", be_slower)
    sqlite_file.ensure(database)
    assert database.read_bytes() == theirs


def test_a_store_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made: File exists"):
        sqlite_file.ensure(tmp_path / "file" / "mlflow.db")


@pytest.mark.parametrize("asked_meanwhile", [False, True])
def test_what_takes_the_place_of_the_file_is_written_to(
    store: str, tmp_path: Path, asked_meanwhile: bool
) -> None:
    """While no file is there, sqlite makes an empty one for who asks."""
    database, copy = sqlite_file.database_of(store), tmp_path / "copy"
    assert database
    client = connect(store).patient(60)
    run_id = client.create_run("0").info.run_id
    shutil.copy(database, copy)
    if asked_meanwhile:
        database.unlink()
        for _ in range(2):
            with pytest.raises(UserError, match="cannot be used"):
                client.patient(0).set_tag(run_id, "key", "lost")
    copy.replace(database)
    client.set_tag(run_id, "key", "value")
    with closing(sqlite3.connect(database)) as there:
        assert ("key", "value") in there.execute("SELECT key, value FROM tags").fetchall()


KILLED = """
import os, signal, sqlite3, sys
store = sqlite3.connect(sys.argv[1], isolation_level=None)
store.execute("PRAGMA cache_spill = 1")
store.execute("PRAGMA cache_size = 1")
store.execute("BEGIN")
store.execute("UPDATE experiments SET name = 'half'")
store.execute("CREATE TABLE large (text TEXT)")
store.executemany("INSERT INTO large VALUES (?)", [("text" * 1000,)] * 100)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_killed_in_a_transaction_is_undone_by_the_next_that_asks(store: str) -> None:
    database = sqlite_file.database_of(store)
    assert database
    connect(store)
    subprocess.run([sys.executable, "-c", KILLED, str(database)], check=False)
    assert database.with_name(f"{database.name}-journal").stat().st_size, "it left no journal"
    check_usable(store)
    assert [run.name for run in list_runs(store)] == []
    assert sqlite_file.deleted_experiment(database, "Default") is None
    assert sqlite_file.has_experiments(database)
