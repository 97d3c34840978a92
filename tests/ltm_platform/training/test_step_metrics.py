"""What a driver that died had not recorded is told again."""

from __future__ import annotations

from ltm_platform.events import EpochEnded, Event, Progress
from ltm_platform.training.step_metrics import StepMeter


def test_a_checkpoint_holds_the_validation_of_its_epoch() -> None:
    """The driver may die between the checkpoint and the record of the epoch that it ends."""
    told: list[Event] = []
    meter = StepMeter(told.append, 32, ("train/loss",))
    ended = EpochEnded(22, 0, {"val/top1": 50.0})
    meter.tell(ended)
    assert told == [ended]
    again: list[Event] = []
    StepMeter(again.append, 32, ("train/loss",)).replay(meter.history())
    assert again == [Progress(22, 0, {"val/top1": 50.0}, ended.time_ms)]
