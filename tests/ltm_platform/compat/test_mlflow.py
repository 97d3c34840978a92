from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow import MlflowClient, environment_variables
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from mlflow.utils import requirements_utils
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_IMAGES, MLFLOW_PARENT_RUN_ID
from PIL import Image
from requests.exceptions import ConnectionError as NoConnectionError

from ltm_platform.compat import mlflow as compat
from ltm_platform.tracking import ui
from ltm_platform.tracking.runs import PARENT_TAG, last_rows

PACKAGE = Path(mlflow.__file__).parent
SETTINGS = (
    *ui.ENVIRONMENT,
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_TRACKING_URI",
)


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


@pytest.fixture
def run_id(client: MlflowClient, tmp_path: Path) -> str:
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "e").as_uri())
    return str(client.create_run(experiment).info.run_id)


@pytest.mark.parametrize("name", SETTINGS)
def test_mlflow_reads_the_setting(name: str) -> None:
    assert getattr(environment_variables, name).name == name


def test_a_store_that_is_away_is_known_by_its_code_or_its_cause() -> None:
    away = MlflowException("x", error_code=databricks_pb2.TEMPORARILY_UNAVAILABLE)
    assert compat.is_unavailable(away)
    assert compat.is_unavailable(NoConnectionError())
    wrapped = MlflowException("API request failed")
    wrapped.__cause__ = NoConnectionError()
    assert compat.is_unavailable(wrapped)
    assert not compat.is_unavailable(MlflowException("no such run"))


def test_what_exists_already_is_known_by_its_code(client: MlflowClient) -> None:
    client.create_registered_model("digits")
    with pytest.raises(MlflowException) as refused:
        client.create_registered_model("digits")
    assert compat.exists_already(refused.value)
    with pytest.raises(MlflowException) as refused:
        client.get_registered_model("letters")
    assert not compat.exists_already(refused.value)


def test_an_image_is_found_by_its_key_and_step(client: MlflowClient, run_id: str) -> None:
    picture = Image.new("RGB", (4, 4))
    client.log_image(run_id, picture, key="confusion matrix", step=12, synchronous=True)
    assert compat.has_image(client, run_id, "confusion matrix", 12)
    assert not compat.has_image(client, run_id, "confusion matrix", 1)
    assert not compat.has_image(client, run_id, "confusion", 12)


def test_an_image_is_logged_once_although_the_call_is_repeated(store: str, run_id: str) -> None:
    client = compat.tracking_client(store)
    picture = Image.new("RGB", (8, 8))
    for step in (1, 1, 2):
        client.log_image(run_id, picture, key="the picture", step=step)
    assert [len(images(client, run_id, step)) for step in (1, 2)] == [2, 2]
    assert client.get_run(run_id).data.tags[MLFLOW_LOGGED_IMAGES] == "True"


@pytest.mark.parametrize("calls", [1, 2])
def test_an_image_whose_call_is_cut_off_is_logged_whole_by_the_next(
    store: str, run_id: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes the image, a smaller one and a tag."""
    client, picture = compat.tracking_client(store), Image.new("RGB", (8, 8))
    left = iter(range(calls))

    def until_then(self: MlflowClient, *args: Any) -> None:
        next(left)  # else StopIteration, as if the process were killed
        usual(self, *args)

    usual = MlflowClient.log_artifact
    with monkeypatch.context() as cut_off:
        cut_off.setattr(MlflowClient, "log_artifact", until_then)
        cut_off.setattr(MlflowClient, "set_tag", lambda *_: next(left))
        with pytest.raises((StopIteration, RuntimeError)):
            client.log_image(run_id, picture, key="the picture", step=1)
    assert not compat.has_image(client, run_id, "the picture", 1)
    client.log_image(run_id, picture, key="the picture", step=1)
    assert compat.has_image(client, run_id, "the picture", 1)
    assert len(images(client, run_id, 1)) == 2


def images(client: MlflowClient, run_id: str, step: int) -> list[str]:
    files = [file.path for file in client.list_artifacts(run_id, "images")]
    return [path for path in files if f"+step+{step}+" in path]


def test_a_run_tells_the_last_step_and_time_of_its_metrics(
    client: MlflowClient, run_id: str
) -> None:
    rows = [Metric("loss", 1.0, 5, 1), Metric("loss", 0.5, 7, 2), Metric("top1", 3.0, 6, 1)]
    client.log_batch(run_id, metrics=rows)
    expected = {("loss", 0.5, 7, 2), ("top1", 3.0, 6, 1)}
    found = client.get_run(run_id)
    assert {(m.key, m.value, m.timestamp, m.step) for m in last_rows(found)} == expected


def test_a_model_is_linked_to_its_version_as_mlflow_does(client: MlflowClient, run_id: str) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, "best", source_run_id=run_id)
    compat.link_to_version(client, model.model_id, "digits", 3)
    tag = client.get_logged_model(model.model_id).tags["mlflow.modelVersions"]
    assert json.loads(tag) == [{"name": "digits", "version": 3}]


def test_a_saved_models_folders_and_files_have_these_names(tmp_path: Path) -> None:
    code = tmp_path / "mine"
    code.mkdir()
    (code / "__init__.py").touch()
    folder = tmp_path / "model"
    mlflow.pytorch.save_model(
        torch.nn.Linear(2, 1),
        str(folder),
        code_paths=[str(code)],
        pip_requirements=["torch"],
        serialization_format="pickle",
    )
    assert (folder / compat.DATA_FOLDER / "model.pth").is_file()
    assert (folder / compat.CODE_FOLDER / "mine" / "__init__.py").is_file()
    assert (folder / compat.CONDA_FILE).is_file()
    assert (folder / compat.PYTHON_FILE).is_file()


def test_requirements_are_not_looked_for_in_all_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)
    given = ["torch==0.0.1", "numpy"]
    with compat.requirements_as_given():
        mlflow.pytorch.save_model(
            torch.nn.Linear(1, 1),
            str(tmp_path / "model"),
            pip_requirements=given,
            serialization_format="pickle",
        )
    assert set(given) <= set((tmp_path / "model/requirements.txt").read_text().splitlines())
    assert requirements_utils._MODULES_TO_PACKAGES is None


def test_code_inside_logged_models_finds_the_network(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 1)
    mlflow.pytorch.save_model(
        network, str(tmp_path / "m"), pip_requirements=["torch"], serialization_format="pickle"
    )
    x = torch.ones(1, 2)
    assert torch.equal(mlflow.pytorch.load_model(str(tmp_path / "m"))(x), network(x))
    # Those that version 0.1 logged hold this name.
    again = mlflow.pytorch._load_model(str(tmp_path / "m" / compat.DATA_FOLDER))
    assert torch.equal(again(x), network(x))


def test_the_user_interface_knows_the_words_of_an_address() -> None:
    scripts = (PACKAGE / "server" / "js" / "build" / "static" / "js").glob("*.js")
    text = "".join(script.read_text(errors="replace") for script in scripts)
    for word in ("workflowType", "machine_learning", "orderByKey", "orderByAsc"):
        assert word in text
    assert compat.runs_page_address("http://h:1", "7", "val/top1") == (
        "http://h:1/#/experiments/7/runs?workflowType=machine_learning"
        "&orderByKey=metrics.%60val%2Ftop1%60&orderByAsc=false"
    )


def test_a_server_tells_that_it_serves() -> None:
    from mlflow.server.security_utils import HEALTH_ENDPOINTS

    assert compat.HEALTH_PATH in HEALTH_ENDPOINTS


def test_monitors_measure_when_they_are_asked() -> None:
    values: dict[str, Any] = {}
    for monitor in compat.system_monitors():
        monitor.collect_metrics()
        values |= monitor.aggregate_metrics()
        monitor.clear_metrics()
        assert monitor.aggregate_metrics() == {}
    assert {"cpu_utilization_percentage", "disk_usage_percentage"} <= values.keys()


def test_the_parent_of_a_run_is_its_tag() -> None:
    assert PARENT_TAG == MLFLOW_PARENT_RUN_ID


def test_the_versions_of_the_tables_are_those_that_mlflow_knows() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    newest, known = compat.revisions()
    assert newest == _get_latest_schema_revision()
    assert len(known) > 50


def test_tables_that_are_made_at_once_are_those_that_mlflow_makes(tmp_path: Path) -> None:
    compat.make_tables(tmp_path / "ours.db")
    MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/theirs.db").search_experiments()
    ours, theirs = (
        {
            (kind, name, *sorted(re.findall(r"\w+", sql or "")))  # MLflow orders some at random
            for kind, name, sql in sqlite3.connect(file).execute(
                "SELECT type, name, sql FROM sqlite_master"
            )
        }
        for file in (tmp_path / "ours.db", tmp_path / "theirs.db")
    )
    assert ours == theirs


def test_a_deleted_experiment_is_known_by_its_stage(client: MlflowClient, store: str) -> None:
    experiment = client.create_experiment("e")
    client.delete_experiment(experiment)
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        rows = database.execute(compat.EXPERIMENT_QUERY, ["e"]).fetchall()
    assert rows == [(int(experiment), compat.DELETED)]
    with pytest.raises(MlflowException) as refused:
        client.create_run(experiment)
    assert compat.is_deleted(refused.value)


def test_the_logger_of_the_store_has_that_name() -> None:
    from mlflow.store.db import utils

    assert utils.__name__ == compat.STORE_LOGGER
    assert utils._logger.name == compat.STORE_LOGGER


def test_what_a_killed_upload_has_left_is_removed(
    client: MlflowClient, run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """In the place of SIGKILL, which would end the test, too."""

    def kill(*_: Any) -> None:
        raise Killed

    (tmp_path / "file").write_text("content")
    client.log_artifact(run_id, str(tmp_path / "file"), "folder")
    (folder,) = (tmp_path / "e").rglob("folder")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", kill)
        patch.setattr("os.unlink", kill)
        patch.setattr("os.remove", kill)
        with pytest.raises(Killed):
            client.log_artifact(run_id, str(tmp_path / "file"), "folder")
    assert len(list(folder.iterdir())) == 2
    compat.remove_unfinished_uploads(client.get_run(run_id).info.artifact_uri)
    assert [file.name for file in folder.iterdir()] == ["file"]
