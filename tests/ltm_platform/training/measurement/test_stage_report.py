"""What is told of the stages of a step: once, and again where another one holds the run back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from ltm_platform.data.decode import Spent
from ltm_platform.events import Decided, Event, Progress
from ltm_platform.job import JobSpec
from ltm_platform.training.measurement import stage_report
from ltm_platform.training.measurement.stage_report import StageReport
from ltm_platform.training.measurement.stage_times import COMPUTE, STAGES, WAIT, StageClock

from .. import scenarios

if TYPE_CHECKING:
    from ..rank_pool import RankPool


class Watch:
    """A timer that a test sets."""

    time = 0.0

    def now(self) -> float:
        return self.time

    def has_passed(self, _: float) -> bool:
        return True

    def seconds(self, start: float, end: float) -> float:
        return end - start


class Training:
    """Steps of a length that a test gives, and what is told of them."""

    def __init__(self) -> None:
        self._watch, self._spent = Watch(), Spent()
        self.clock = StageClock(self._watch, self._spent)
        self.told: list[Event] = []
        self.report = StageReport(
            JobSpec.load("quickstart").data,
            self.clock,
            self.told.append,
            images=8,
            loader_workers=1,
            ranks_here=1,
            device=torch.device("cpu"),
        )
        self.clock.restart()
        self.steps(1)

    def steps(self, count: int, *, wait: float = 0.0, compute: float = 1.0) -> None:
        for _ in range(count):
            self._spent.add(Spent(0.0, 4.0))
            for stage, length in ((WAIT, wait), (COMPUTE, compute)):
                self._watch.time += length
                self.clock.lap(stage)
            self.clock.step()

    @property
    def sentences(self) -> list[str]:
        return [one.sentence for one in self.told if isinstance(one, Decided)]


@pytest.mark.usefixtures("only_rank")
def test_an_epoch_tells_its_own_shares_and_a_sentence_when_the_stage_changes() -> None:
    training = Training()
    training.steps(2)
    metrics = training.report.epoch_ended()
    assert metrics["time/compute_share"] == 1
    assert (metrics["time/step_s"], metrics["time/decode_ms"]) == (1, 500)
    assert metrics["memory/peak_gib"] > 0
    training.steps(2)
    training.report.epoch_ended()
    training.steps(4, wait=1.0)
    assert training.report.epoch_ended()["time/decode_share"] == 0.5
    first, second = training.sentences
    assert first.startswith("computing: 100 % of the step")
    assert second.startswith("waiting for images: 50 % of the step")


@pytest.mark.usefixtures("only_rank")
def test_a_process_that_has_done_one_step_has_nothing_to_tell() -> None:
    training = Training()
    assert set(training.report.epoch_ended()) == {"memory/peak_gib"}
    assert training.told == []


def test_a_long_epoch_tells_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    training.steps(1)
    training.report.within_epoch(2, 0)
    assert training.told == []  # not yet
    monkeypatch.setattr(stage_report, "INTERVAL_S", 0.0)
    training.report.within_epoch(2, 0)
    sentence, metrics = training.told
    assert isinstance(sentence, Decided)
    assert isinstance(metrics, Progress)
    assert (metrics.step, metrics.epoch) == (2, 0)
    assert metrics.metrics["time/compute_share"] == 1


@pytest.mark.parametrize("stage", [0, 1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_stages_of_real_ranks_add_up_and_are_the_same_on_both(
    ranks: RankPool, stage: int
) -> None:
    one, other = (seen["epochs"] for seen in ranks.run(2, scenarios.losses, stage))
    for metrics, others in zip(one, other, strict=True):
        shares = {name: metrics[f"time/{name}_share"] for name in STAGES}
        assert sum(shares.values()) == pytest.approx(1)
        assert min(shares["compute"], shares["exchange"], shares["decode"]) > 0
        assert shares == {name: others[f"time/{name}_share"] for name in STAGES}
