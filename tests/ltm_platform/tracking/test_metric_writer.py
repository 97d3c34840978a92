"""When what is recorded is written."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ltm_platform.events import Started, Waiting
from ltm_platform.tracking import TrackedRun, metric_writer
from ltm_platform.tracking.retry import RetryingClient
from ltm_platform.tracking.runs import WAITS_TAG, WORKERS_TAG

if TYPE_CHECKING:
    import pytest

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
        while written.get(timeout=60) != (WAITS_TAG, value):
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
