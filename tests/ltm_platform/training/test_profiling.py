"""Ten steps of training are traced once, if the job wants it."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import torch

from ltm_platform.events import Profiled
from ltm_platform.training.profiling import (
    SKIPPED_STEPS,
    TRACE_FILE,
    TRACED_STEPS,
    StepProfiler,
)

from .small_run import MODEL, FolderContext, small_job

if TYPE_CHECKING:
    from .conftest import StartRun
    from .small_run import SmallRun

# 12 steps an epoch
RECIPE: dict[str, Any] = {"epochs": 2, "global_batch": 4}
JOB = {"model": MODEL, "recipe": RECIPE}


def profiles(run: SmallRun) -> list[Profiled]:
    return [event for event in run.events if isinstance(event, Profiled)]


def traced_steps(profiled: Profiled) -> int:
    trace = json.loads(gzip.decompress(profiled.files[TRACE_FILE]))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    return sum(name.startswith("ProfilerStep#") for name in names)


def test_ten_steps_are_traced_also_over_the_end_of_an_epoch(
    start_run: StartRun, context: FolderContext
) -> None:
    run = start_run(small_job(JOB, tracking__profile=True), context)
    run.train()
    (profiled,) = profiles(run)
    assert traced_steps(profiled) == TRACED_STEPS
    assert "profile/trace.json.gz" in profiled.sentence


def test_nothing_is_traced_unless_it_is_wanted(start_run: StartRun, context: FolderContext) -> None:
    run = start_run(small_job(JOB, recipe__epochs=1), context)
    run.train()
    assert profiles(run) == []


def test_training_that_ends_early_sends_what_it_traced() -> None:
    sent: list[Any] = []
    profiler = StepProfiler(sent.append, torch.device("cpu"))
    for _ in range(SKIPPED_STEPS + 5):
        torch.ones(2) @ torch.ones(2)
        profiler.step()
    assert not sent
    profiler.close()
    profiler.close()
    (profiled,) = sent
    assert 1 <= traced_steps(profiled) < TRACED_STEPS


def test_training_without_a_step_sends_nothing() -> None:
    sent: list[Any] = []
    StepProfiler(sent.append, torch.device("cpu")).close()
    assert sent == []
