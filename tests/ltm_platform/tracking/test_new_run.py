from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from mlflow import MlflowClient
from requests.exceptions import ConnectionError as NoAnswer

from ltm_platform.tracking import list_runs
from ltm_platform.tracking.new_run import create_run
from ltm_platform.tracking.store import connect

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path("/runs/hit")
usual = MlflowClient.create_run


def create(store: str) -> str:
    return create_run(connect(store).patient(), store, "experiment", "hit", FOLDER, None)


@pytest.fixture
def then(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """What happens when the store has created a run, before it can be told of it."""

    def then(happens: Callable[[], None]) -> None:
        def create_run(*args: Any, **kwargs: Any) -> Any:
            run = usual(*args, **kwargs)
            happens()
            return run

        monkeypatch.setattr(MlflowClient, "create_run", create_run)

    return then


def test_a_run_whose_creation_is_interrupted_is_killed(
    store: str, then: Callable[[Callable[[], None]], None], interrupt: Callable[[], None]
) -> None:
    then(interrupt)
    with pytest.raises(KeyboardInterrupt):
        create(store)
    (run,) = list_runs(store)
    assert (run.name, run.folder, run.status) == ("hit", str(FOLDER), "KILLED")


def test_a_run_whose_creation_is_not_answered_is_created_once(
    store: str, then: Callable[[Callable[[], None]], None]
) -> None:
    answers = iter([False, True])

    def lose_the_first() -> None:
        if not next(answers):
            raise NoAnswer

    then(lose_the_first)
    run_id = create(store)
    (run,) = list_runs(store)
    assert (run.run_id, run.status) == (run_id, "RUNNING")
