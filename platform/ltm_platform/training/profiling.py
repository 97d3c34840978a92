"""What some steps spend their time on, traced by torch's profiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.profiler import ProfilerActivity, profile, schedule

from ltm_platform.events import Profiled
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    import torch

    from ltm_platform.events import Listener

TRACE_FILE = "trace.json.gz"
TRACED_STEPS = 10
SKIPPED_STEPS = 5
"""The first, in which kernels are chosen and buffers allocated."""
_WARMUP_STEPS = 1  # of the profiler, whose own first step is slow


class StepProfiler:
    """Traces ten steps of training, once, and sends the trace."""

    def __init__(self, send: Listener, device: torch.device) -> None:
        self._send = send
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        plan = schedule(
            skip_first=SKIPPED_STEPS, wait=0, warmup=_WARMUP_STEPS, active=TRACED_STEPS, repeat=1
        )
        self._profiler: Any = profile(
            activities=activities, schedule=plan, on_trace_ready=self._ready
        )
        self._steps = -1

    def step(self) -> None:
        """An optimizer step is done; the first call only begins."""
        if self._profiler is None:
            return
        self._steps += 1
        if self._steps == 0:
            self._profiler.start()
        elif self._steps <= SKIPPED_STEPS + _WARMUP_STEPS + TRACED_STEPS:
            self._profiler.step()
        else:
            self.close()

    def close(self) -> None:
        """Training ends; what was traced of fewer than ten steps is sent."""
        profiler, self._profiler = self._profiler, None
        if profiler is not None and self._steps >= 0:
            profiler.stop()

    def _ready(self, profiler: Any) -> None:
        # no table of operators: it is seconds in which all ranks wait for this one
        with temporary_folder("ltm-profile-") as folder:
            trace = folder / TRACE_FILE
            profiler.export_chrome_trace(str(trace))
            files = {TRACE_FILE: trace.read_bytes()}
        sentence = (
            f"{TRACED_STEPS} steps were traced: the artifact profile/{TRACE_FILE} is for "
            f"https://ui.perfetto.dev"
        )
        self._send(Profiled(files, sentence))
