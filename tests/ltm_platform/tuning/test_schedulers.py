"""Schedulers stop what is worse, and do nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from ltm_platform.job import JobSpec
from ltm_platform.tuning.spec import Sweep, read_stages
from ltm_platform.tuning.sweep import _scheduler
from ltm_platform.tuning.trial import EPOCH

CONTROLLER = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])


class Trial:
    """What schedulers know of one."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id


@pytest.mark.parametrize("name", ["asha", "median"])
def test_the_worst_is_stopped_and_none_is_paused(name: str) -> None:
    sweep = Sweep("s", JobSpec.load("quickstart").to_dict(), ("lr",), scheduler=name)
    scheduler = _scheduler(read_stages(sweep)[0])
    decisions = {}
    for top1 in (90, 80, 85, 95, 10):
        trial = Trial(str(top1))
        scheduler.on_trial_add(CONTROLLER, trial)
        unmeasured = {EPOCH: 0, "model/gmacs": 1.0}
        assert scheduler.on_trial_result(CONTROLLER, trial, unmeasured) == TrialScheduler.CONTINUE
        decisions[top1] = scheduler.on_trial_result(CONTROLLER, trial, {EPOCH: 1, "val/top1": top1})
    assert decisions[90] == decisions[95] == TrialScheduler.CONTINUE
    assert decisions[10] == TrialScheduler.STOP
    assert TrialScheduler.PAUSE not in decisions.values()
