"""Which stage holds a run back, told of a timeline that is computed, not waited for."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

import pytest

from ltm_platform.data.decode import Spent
from ltm_platform.training.measurement.stage_times import (
    COMPUTE,
    COPY,
    EXCHANGE,
    StageClock,
    StageTimes,
    held_back_by,
    sentence,
    slowest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = 40
AHEAD = 2
"""Batches that each decode process may be ahead."""


@dataclass(frozen=True)
class Durations:
    """Seconds of a batch."""

    read: float = 0.2
    decode: float = 0.8
    copy: float = 0.1
    compute: float = 1.0
    exchange: float = 0.1


class Timeline:
    """A training whose every stage has a length of its own. As a timer, what time it is in it.

    lag: how far what has passed is behind: a GPU's stages end after the host has gone on.
    """

    def __init__(self, lengths: Durations, workers: int, lag: float = 0.0) -> None:
        self._lengths, self._workers, self._lag = lengths, workers, lag
        self._time = 0.0
        self.spent = Spent()

    def now(self) -> float:
        return self._time

    def has_passed(self, moment: float) -> bool:
        return moment + self._lag <= self._time

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def _batches(self) -> Iterator[int]:
        """Each when it is read and decoded: here, or by processes that begin as soon as one is
        free and their batches are not too many."""
        length = self._lengths.read + self._lengths.decode
        free = [0.0] * self._workers
        taken: list[float] = []
        for number in range(STEPS):
            if self._workers:
                window = AHEAD * self._workers
                begin = taken[number - window] if number >= window else 0.0
                process = number % self._workers
                free[process] = max(free[process], begin) + length
                self._time = max(self._time, free[process])
            else:
                self._time += length
            taken.append(self._time)
            self.spent.add(Spent(self._lengths.read, self._lengths.decode))
            yield number

    def train(self, accumulation: int = 1) -> StageTimes:
        clock = StageClock(self, self.spent)
        clock.restart()
        for number in clock.waited(self._batches()):
            self._time += self._lengths.copy
            clock.lap(COPY)
            self._time += self._lengths.compute
            clock.lap(COMPUTE)
            if (number + 1) % accumulation == 0:
                self._time += self._lengths.exchange
                clock.lap(EXCHANGE)
                clock.step()
                if number == STEPS // 2:
                    self._time += 5.0  # a checkpoint, say
                clock.restart()
        self._time += self._lag
        return clock.times()


SLOW = {
    "read": {"read": 20.0},
    "decode": {"decode": 20.0},
    "copy": {"copy": 8.0},
    "compute": {"compute": 8.0},
    "exchange": {"exchange": 9.0},
}


@pytest.mark.parametrize(
    ("workers", "accumulation", "lag"), [(0, 1, 0.0), (1, 1, 0.0), (4, 2, 0.0), (4, 1, 30.0)]
)
@pytest.mark.parametrize("stage", SLOW)
def test_the_stage_that_takes_long_is_named(
    stage: str, workers: int, accumulation: int, lag: float
) -> None:
    """Twenty cases. Without a decode process, others than the long one are waited for, too."""
    lengths = replace(Durations(), **SLOW[stage])
    if not workers:
        lengths = replace(
            lengths, **{k: v / 10 for k, v in vars(Durations()).items() if k != stage}
        )
    times = Timeline(lengths, workers, lag).train(accumulation)
    assert held_back_by(times, workers) == stage
    assert sum(times.metrics().values()) == pytest.approx(1)


def test_the_loader_is_named_even_where_the_network_takes_more_of_the_step() -> None:
    times = Timeline(replace(Durations(), decode=7.0), 4).train()
    assert times.share("compute") > 0.5
    assert held_back_by(times, 4) == "decode"
    assert held_back_by(times, 0) == "compute", "where they take turns, the longer one"


def test_what_the_laps_add_up_to() -> None:
    times = Timeline(Durations(), 0).train()
    steps = STEPS - 1  # the first is not counted
    expected = [n * steps for n in (0.2, 0.8, 0.1, 1.0, 0.1)]
    assert astuple(times) == pytest.approx([*expected, steps, 0.2 * steps, 0.8 * steps])


def said(times: StageTimes, workers: int = 4, cores: int = 16, *, cached: bool = True) -> str:
    return sentence(times, loader_workers=workers, cores=cores, cached=cached)


def test_the_sentence_says_how_many_processes_would_do() -> None:
    waiting = StageTimes(read=2, decode=60, copy=2, compute=36)
    assert said(waiting) == (
        "waiting for images: 62 % of the step; data.loader_workers=11 would help"
    )
    assert said(waiting, cores=8).endswith("data.loader_workers=8 would help")
    assert said(waiting, workers=8, cores=8).endswith(
        "smaller images or fewer augmentations, since 8 cores a worker are all there are, "
        "would help"
    )
    assert said(waiting, workers=0).endswith("data.loader_workers=2 would help")


def test_so_many_processes_do() -> None:
    lengths = replace(Durations(), decode=9.0)
    short = Timeline(lengths, 3).train()
    told = int(said(short, workers=3).partition("loader_workers=")[2].split()[0])
    enough = Timeline(lengths, told).train()
    assert enough.waiting < 0.1
    assert held_back_by(enough, told) == "compute"


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (
            StageTimes(read=50, decode=1, compute=49),
            "waiting for images to be read: 51 % of the step; "
            "data.cache, a folder on each node's own disk, would help",
        ),
        (StageTimes(copy=60, compute=40), "copying images to the device: 60 % of the step"),
        (
            StageTimes(read=1, decode=4, compute=95),
            "computing: 95 % of the step; nothing else holds it back",
        ),
        (
            StageTimes(compute=40, exchange=60),
            "waiting for other workers: 60 % of the step; a larger recipe.global_batch would "
            "exchange gradients less often",
        ),
    ],
)
def test_every_stage_has_a_sentence(times: StageTimes, expected: str) -> None:
    assert said(times, cached=False) == expected


def test_the_rank_that_the_others_wait_for_is_the_one_that_counts() -> None:
    late = StageTimes(decode=6, compute=4)
    waiting = [StageTimes(compute=4, exchange=6)] * 7
    assert slowest([*waiting, late]) is late
    assert slowest([StageTimes()] * 2).metrics() == {}
