"""Ray Train's checkpoints, their record, its controller's callbacks and its trainer."""

from __future__ import annotations

import inspect
import json
import logging
import threading
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
import ray
from ray.train import Checkpoint, CheckpointConfig, Result, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal import constants
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution import context
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import set_train_context
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RunningState,
    SchedulingState,
)
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, NoopDecision
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.train_fn_utils import (
    DistributedTrainFnUtils,
    set_train_fn_utils,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroup, WorkerGroupState
from ray.train.v2._internal.util import date_str

from ltm_platform.compat import ray_checkpoints, ray_train
from ltm_platform.compat.ray_train import (
    CheckpointKeeper,
    PlacementCallback,
    StopCallback,
    checkpoint_record,
)
from ltm_platform.compat.ray_trainer import (
    CausePolicy,
    LeanTrainer,
    _NoResourceRequests,
    awaited,
)

if TYPE_CHECKING:
    from pathlib import Path

KEPT = CheckpointConfig(
    num_to_keep=2, checkpoint_score_attribute="val/top1", checkpoint_score_order="max"
)
# Without a score is what was stored within an epoch.
TOP1 = {"checkpoint_a": 90.0, "checkpoint_b": 95.0, "checkpoint_c": 93.0, "checkpoint_d": None}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run whose checkpoints Ray Train's manager has kept."""
    folder = tmp_path / "run"
    keeper = CheckpointKeeper(folder, KEPT)
    assert keeper.latest is None
    for name, top1 in TOP1.items():
        (folder / name).mkdir()
        metrics = {} if top1 is None else {"val/top1": top1}
        keeper.register(Checkpoint.from_directory(folder / name), metrics)
        assert keeper.latest == folder / name
    return folder


def test_the_best_are_kept_and_the_last(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == list(TOP1)[1:]
    assert CheckpointKeeper(run, KEPT).latest == run / "checkpoint_d"


def test_the_record_tells_the_order_in_time(run: Path) -> None:
    record = run / ray_checkpoints.RECORD_FILE
    found = ray_checkpoints.read_record(record.read_bytes())
    assert [one.name for one in found] == list(TOP1)[1:]
    assert [one.metrics.get("val/top1") for one in found] == [95.0, 93.0, None]
    public = Result.from_path(str(run)).best_checkpoints or []
    assert {name.path.rsplit("/", 1)[-1] for name, _ in public} == {one.name for one in found}


def test_ray_train_goes_on_from_what_the_record_says(run: Path) -> None:
    record = run / ray_checkpoints.RECORD_FILE
    found = [("checkpoint_b", {"val/top1": 95.0})]
    record.write_bytes(checkpoint_record(str(run.parent), run.name, found, "val/top1"))
    keeper = CheckpointKeeper(run, KEPT)
    assert keeper.latest == run / "checkpoint_b"
    (run / "checkpoint_e").mkdir()
    keeper.register(Checkpoint.from_directory(run / "checkpoint_e"), {"val/top1": 1.0})
    names = [one.name for one in ray_checkpoints.read_record(record.read_bytes())]
    assert names == ["checkpoint_b", "checkpoint_e"]


def test_a_record_that_is_made_again_is_the_one_that_ray_train_wrote(run: Path) -> None:
    written = json.loads((run / ray_checkpoints.RECORD_FILE).read_text())
    found = ray_checkpoints.read_record((run / ray_checkpoints.RECORD_FILE).read_bytes())
    pairs = [(one.name, one.metrics) for one in found]
    again = json.loads(checkpoint_record(str(run.parent), run.name, pairs, "val/top1"))
    # Reports are counted from the oldest that is kept.
    counted = {"checkpoint_report_indices", "current_report_index"}
    assert again.keys() == written.keys()
    assert {key for key in again if again[key] != written[key]} == counted
    assert again["checkpoint_report_indices"] == [2, 1, 0]


def test_names_are_those_that_ray_train_gives(tmp_path: Path) -> None:
    assert constants.CHECKPOINT_MANAGER_SNAPSHOT_FILENAME == ray_checkpoints.RECORD_FILE
    storage = StorageContext(str(tmp_path), "run")
    given = storage.make_default_checkpoint_dir_name()
    own = ray_checkpoints.new_folder_name()
    assert given.startswith(ray_checkpoints.FOLDER_PREFIX)
    first, second = (f"checkpoint_{date_str(include_ms=True)}" for _ in range(2))
    assert len(own) == len(given) == len(first)
    assert own <= first <= second <= ray_checkpoints.new_folder_name()


def test_a_worker_knows_where_the_run_is_stored(tmp_path: Path) -> None:
    storage = StorageContext(str(tmp_path), "run")

    class Context:
        def get_storage(self) -> StorageContext:
            return storage

    set_train_context(Context())
    set_train_fn_utils(DistributedTrainFnUtils())
    try:
        filesystem, path = ray_train.run_storage()
    finally:
        set_train_fn_utils(None)
        set_train_context(None)
    assert (filesystem.type_name, path) == ("local", str(tmp_path / "run"))


def test_the_controller_says_when_it_wants_workers() -> None:
    class Counting(PlacementCallback):
        wanted = 0

        def on_workers_wanted(self) -> None:
            self.wanted += 1

    hook = inspect.signature(ControllerCallback.after_controller_state_update)
    assert inspect.signature(PlacementCallback.after_controller_state_update).parameters.keys() == (
        hook.parameters.keys()
    )
    callback = Counting()
    start = InitializingState()
    placing = SchedulingState(NoopDecision())
    failed = ReschedulingState(TrainingFailedError())
    counts = []
    for before, after in (
        (start, placing),
        (placing, failed),
        (failed, placing),
        (placing, RunningState()),
    ):
        callback.after_controller_state_update(before, after)
        counts.append(callback.wanted)
    assert counts == [1, 2, 2, 2]


def test_what_stops_a_run_can_be_told() -> None:
    for base, name in (
        (ControllerCallback, "after_controller_start"),
        (WorkerGroupCallback, "after_worker_group_start"),
    ):
        own, theirs = (inspect.signature(getattr(kind, name)) for kind in (StopCallback, base))
        assert own.parameters.keys() == theirs.parameters.keys()
    assert "placement_group_handle" in {field.name for field in fields(WorkerGroupState)}
    assert callable(WorkerGroup.get_worker_group_state)
    assert callable(TrainController.abort)


@pytest.mark.parametrize(
    "name",
    ["_create_default_callbacks", "_initialize_and_run_controller"],
)
def test_the_trainer_has_what_ours_replaces(name: str) -> None:
    own, theirs = (getattr(kind, name) for kind in (LeanTrainer, TorchTrainer))
    assert own is not theirs
    kinds = [[one.kind for one in inspect.signature(f).parameters.values()] for f in (own, theirs)]
    assert kinds[0] == kinds[1]


def test_the_trainer_hands_over_the_policy_and_the_callbacks_that_ours_changes() -> None:
    fit = inspect.getsource(TorchTrainer.fit)
    assert "scaling_policy=create_scaling_policy(self.scaling_config)" in fit
    assert "failure_policy=create_failure_policy(self.run_config.failure_config)" in fit
    run = inspect.getsource(TorchTrainer._initialize_and_run_controller)
    for part in ("TrainController", "RAY_NODE_ID_KEY", "env_vars", "run.remote", "get_result"):
        assert part in run
    made = inspect.getsource(TorchTrainer._create_default_callbacks)
    for kind in (DatasetsCallback, PlacementGroupCleanerCallback):
        assert f"{kind.__name__}(" in made


def test_the_policy_has_the_requests_that_ours_leaves_out() -> None:
    for name in ("after_controller_start", "_maybe_send_resource_request"):
        own, theirs = (getattr(kind, name) for kind in (_NoResourceRequests, FixedScalingPolicy))
        assert (
            inspect.signature(own).parameters.keys() == inspect.signature(theirs).parameters.keys()
        )


def test_the_policy_of_failures_has_what_ours_replaces() -> None:
    for name in ("_is_retryable_error", "make_decision"):
        own, theirs = (getattr(kind, name) for kind in (CausePolicy, DefaultFailurePolicy))
        assert own is not theirs
        assert (
            inspect.signature(own).parameters.keys() == inspect.signature(theirs).parameters.keys()
        )


@pytest.mark.usefixtures("ray_session")
def test_what_is_awaited_may_be_given_up() -> None:
    @ray.remote
    def double(number: int) -> int:
        return 2 * number

    @ray.remote(num_cpus=0)
    class Silent:
        def ask(self) -> None:
            threading.Event().wait()

    def give_up() -> None:
        raise TimeoutError

    assert awaited(double.remote(3), lambda: None) == 6
    silent = Silent.remote()
    with pytest.raises(TimeoutError):
        awaited(silent.ask.remote(), give_up)
    ray.kill(silent)


def test_reports_are_logged_by_a_logger_that_no_config_reaches() -> None:
    logger = logging.getLogger(context.__file__)
    assert "Reporting training result" in inspect.getsource(context)
    assert context.logger is logger
    before = logger.level
    try:
        ray_train.report_quietly()
        assert not logger.isEnabledFor(logging.INFO)
        assert logger.isEnabledFor(logging.WARNING)
    finally:
        logger.setLevel(before)
