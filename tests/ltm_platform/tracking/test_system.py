"""How busy the node is, sampled beside a run."""

from __future__ import annotations

import math
import threading

import pytest

from ltm_platform.tracking.system import sampling

PATIENCE_S = 300


def test_samples_come_while_the_block_runs_and_end_with_it() -> None:
    seen: list[tuple[dict[str, float], int, int]] = []
    enough = threading.Event()

    def record(values: dict[str, float], step: int, time_ms: int) -> None:
        seen.append((values, step, time_ms))
        if len(seen) == 3:
            enough.set()

    with sampling(record, first_step=5, interval_s=0.01):
        assert enough.wait(PATIENCE_S)
    there = len(seen)
    assert "system-metrics" not in [thread.name for thread in threading.enumerate()]
    assert [step for _, step, _ in seen] == list(range(5, 5 + there))
    assert [time for *_, time in seen] == sorted(time for *_, time in seen)
    for values, *_ in seen:
        assert all(key.startswith("system/") for key in values)
        assert all(math.isfinite(value) for value in values.values())
        assert 0 <= values["system/cpu_utilization_percentage"] <= 100
        assert values["system/system_memory_usage_megabytes"] > 0


def test_nothing_is_sampled_before_the_interval_is_over_and_an_error_ends_it() -> None:
    seen: list[int] = []
    with (
        pytest.raises(OSError, match="disk"),
        sampling(lambda *_: seen.append(1), first_step=0, interval_s=3600),
    ):
        raise OSError("disk")
    assert seen == []
    assert "system-metrics" not in [thread.name for thread in threading.enumerate()]
