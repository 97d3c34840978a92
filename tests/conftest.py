"""What all tests share: a home of their own, one store to copy and one Ray session."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen
from uuid import uuid4

import pytest
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT = {
    # Ray would write a token into the user's home.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers of a Ray that is not ours would have 15, and what other tests do not take.
    "RAY_worker_niceness": "0",
}

SHARING = {
    "trained": ["test_browser", "test_engines", "test_evaluate", "test_faults", "test_reports"],
    "ray": ["test_events", "test_ray_train", "test_services", "test_session"],
    "ranks": [
        "test_checkpoint",
        "test_ddp",
        "test_elastic",
        "test_micro_batch",
        "test_ranks",
        "test_stage_report",
        "test_sync_bn",
        "test_validation",
        "test_weights",
    ],
}
"""Files that ask for a costly fixture: the trained runs, Ray's session, the ranks' answers."""


class ByFixtures(LoadScopeScheduling):
    """In several processes: no file is split, and those that share a costly fixture go to one
    process, since to make it again costs more than what is gained."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        stem = Path(file).stem
        return next((name for name, files in SHARING.items() if stem in files), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFixtures:
    return ByFixtures(config, log)


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


@pytest.fixture(autouse=True)
def _own_state_of_the_process() -> Iterator[None]:
    """No test draws torch's random numbers where another one stopped, or finds modules where
    another one put some: MLflow does, of the models that it loads."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    path, before = sys.path, sys.path[:]
    yield
    path[:] = before
    sys.path = path


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def object_store() -> Iterator[dict[str, str]]:
    """The environment in which clients of S3 find one, with the protocol over HTTP, that this
    process serves."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line a request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()


def make_bucket(object_store: dict[str, str]) -> str:
    """The address of an empty bucket."""
    name = f"bucket-{uuid4().hex}"
    urlopen(Request(f"{object_store['AWS_ENDPOINT_URL']}/{name}", method="PUT")).close()
    return f"s3://{name}"


@pytest.fixture
def bucket(object_store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket."""
    for key, value in object_store.items():
        monkeypatch.setenv(key, value)
    return make_bucket(object_store)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; to make one takes MLflow several seconds."""
    from ltm_platform.tracking import list_runs
    from ltm_platform.tracking.store import connect

    database = tmp_path_factory.mktemp("empty-store") / "mlflow.db"
    uri = f"sqlite:///{database}"
    # The filters of the test that happens to ask first are not those of all.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connect(uri)
    assert list_runs(uri) == []
    return database


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> str:
    """The URI of an sqlite store of this test alone."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
