"""What all tests share: a home of their own, one store to copy and one Ray session."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = {
    # Ray would write a token into the user's home.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@pytest.fixture(scope="session", autouse=True)
def ltm_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where every run, store and data set of the tests goes."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in ENVIRONMENT.items():
            patch.setenv(key, value)
        patch.setenv("LTM_PLATFORM_HOME", str(folder))
        # As in an activated environment: commands to type next are shown by their names.
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; to make one takes MLflow several seconds."""
    from ltm_platform.tracking import list_runs

    database = tmp_path_factory.mktemp("empty-store") / "mlflow.db"
    database.touch()
    assert list_runs(f"sqlite:///{database}") == []
    return database


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    """The URI of an sqlite store of this test alone."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
