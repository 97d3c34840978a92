from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError
from ray.train._internal.storage import StorageContext
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial

from ltm_platform.compat import ray_tune


class Storage(StorageContext):
    """As Tune's, with the folder for the driver's own files elsewhere: Ray's needs a Ray."""

    @property
    def trial_driver_staging_path(self) -> str:
        return str(Path(self.storage_fs_path) / "driver")


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    (tmp_path / "driver").mkdir()
    (tmp_path / "sweep" / "trial").mkdir(parents=True)
    storage = Storage(str(tmp_path), "sweep", trial_dir_name="trial")
    return Trial("any", stub=True, max_failures=3, storage=storage)


def failed() -> RayTaskError:
    return RayTaskError("task", "a long traceback", ValueError("too large"))


def test_a_sweep_is_recorded_in_a_file_of_this_name(tmp_path: Path) -> None:
    name = TuneController.CKPT_FILE_TMPL.format("2026-01-01_00-00-00")
    assert fnmatch.fnmatch(name, ray_tune.RECORD_PATTERN)
    assert not ray_tune.holds_record(tmp_path)
    (tmp_path / name).touch()
    assert ray_tune.holds_record(tmp_path)


def test_a_trial_that_is_given_up_is_not_tried_again(trial: Trial) -> None:
    trial.handle_error(failed())
    assert trial.should_recover()
    ray_tune.give_up(trial)
    assert not trial.should_recover()


def test_a_trials_error_is_what_was_raised(trial: Trial, tmp_path: Path) -> None:
    assert ray_tune.error_of(trial) is None
    trial.handle_error(failed())
    here = ray_tune.error_of(trial)
    assert isinstance(here, RayTaskError)
    assert str(here.cause) == "too large"
    # Of an earlier session there is the copy in the sweep's storage alone.
    (file,) = (tmp_path / "driver").glob("*.pkl")
    file.rename(tmp_path / "sweep" / "trial" / file.name)
    assert str(ray_tune.error_of(trial)) == str(here)
