"""When what is recorded is written."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from ltm_platform.errors import RunError
from ltm_platform.events import Started, Waiting
from ltm_platform.tracking import TrackedRun, metric_writer, retry, sqlite_file, unsent_metrics
from ltm_platform.tracking.retry import RetryingClient
from ltm_platform.tracking.runs import WAITS_TAG, WORKERS_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path("/runs/digits-1")


def test_how_a_run_stands_is_written_without_a_pause(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(metric_writer, "INTERVAL_S", 3600.0)
    monkeypatch.setattr(metric_writer, "LONGEST_INTERVAL_S", 3600.0)
    written: SimpleQueue[tuple[str, str]] = SimpleQueue()

    class Telling(MlflowClient):
        def log_batch(self, *args: Any, **rows: Any) -> None:
            super().log_batch(*args, **rows)
            for tag in rows["tags"]:
                written.put((tag.key, tag.value))

    def await_tag(value: str) -> None:
        while written.get(timeout=300) != (WAITS_TAG, value):
            pass
        assert client.get_run(run_id).data.tags[WAITS_TAG] == value

    client = Telling(tracking_uri=store)
    run_id = client.create_run("0").info.run_id
    run = TrackedRun(RetryingClient(client, store), store, run_id, FOLDER)
    run(Waiting("2 CPUs: 0 are free now"))
    await_tag("2 CPUs: 0 are free now")
    run(Started(2, 0, 16, 0, "cpu", 2))
    await_tag("")
    assert client.get_run(run_id).data.tags[WORKERS_TAG] == "2"
    run.end("FINISHED", limit_s=60)


@pytest.fixture
def full_disk(store: str) -> Iterator[None]:
    """The store's file may not grow, and there are no free pages in it."""
    database = sqlite_file.database_of(store)
    assert database

    def limit(connection: Any, _: Any) -> None:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.execute(f"PRAGMA max_page_count = {database.stat().st_size // size}")

    event.listen(Engine, "connect", limit)
    yield
    event.remove(Engine, "connect", limit)


def test_a_full_disk_is_told_soon_and_what_it_lacks_is_kept(
    store: str,
    full_disk: None,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(retry, "FULL_S", 0.5)
    client = MlflowClient(tracking_uri=store)
    run_id = client.create_run("0").info.run_id
    run = TrackedRun(RetryingClient(client, store), store, run_id, tmp_path)
    for step in range(5000):
        run.log_metrics({"val/top1": 50.0}, step=step, time_ms=step)
    with pytest.raises(RunError, match=r"has no room left and lacks the last [45]\d{3} values"):
        run.flush(limit_s=600)
    with pytest.raises(RunError, match="has no room left"):
        run.end("FINISHED", limit_s=600)
    assert len(unsent_metrics.load(tmp_path)) >= 4000
