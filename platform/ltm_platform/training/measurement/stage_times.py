"""Where the time of training goes: the stages of a step, and the one that holds the run back.

Nothing here waits for the device: on a GPU the ends of stages are events in its own stream, which
are read once they have passed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ltm_platform.data.decode import Spent

WAIT, COPY, COMPUTE, EXCHANGE = "wait", "copy", "compute", "exchange"
"""What a lap of `StageClock` may be; waiting for images is divided into read and decode."""
STAGES = ("read", "decode", "copy", "compute", "exchange")
"""Of a step, in their order."""
IDLE = 0.1
"""Share of the step from which waiting for images is no accident: decode processes work beside the
network, so if they are waited for, they are the slower of the two."""
MOST_LOADER_WORKERS = 256


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of training by stage."""

    read: float = 0.0
    """Waiting for images, as far as it is due to reading them."""
    decode: float = 0.0
    """The same for decoding and augmenting."""
    copy: float = 0.0
    """From the host's memory to the device's."""
    compute: float = 0.0
    """Forward, backward, update, and what belongs to them."""
    exchange: float = 0.0
    """Waiting for other workers and their gradients after all of one's own are computed."""
    steps: int = 0
    reading_s: float = 0.0
    """What decode processes took to read these steps' images, whether or not training waited."""
    decoding_s: float = 0.0
    """The same for decoding and augmenting them."""

    @property
    def total(self) -> float:
        return sum(getattr(self, stage) for stage in STAGES)

    @property
    def waiting(self) -> float:
        """Share of the step in which images are waited for."""
        return (self.read + self.decode) / self.total

    def share(self, stage: str) -> float:
        return float(getattr(self, stage)) / self.total

    def metrics(self) -> dict[str, float]:
        """Shares of the step, from 0 to 1; none before anything is measured."""
        if not self.total:
            return {}
        return {f"time/{stage}_share": self.share(stage) for stage in STAGES}


class Timer(Protocol):
    """Moments, and the seconds between two of them once both have passed."""

    def now(self) -> Any: ...

    def has_passed(self, moment: Any) -> bool: ...

    def seconds(self, start: Any, end: Any) -> float: ...


class HostTimer:
    """The clock of this process."""

    def now(self) -> float:
        return time.perf_counter()

    def has_passed(self, _: float) -> bool:
        return True

    def seconds(self, start: float, end: float) -> float:
        return end - start


class CudaTimer:
    """The current stream of a GPU, to which the host is far ahead."""

    def now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def has_passed(self, moment: torch.cuda.Event) -> bool:
        return bool(moment.query())

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return float(start.elapsed_time(end)) / 1000


class StageClock:
    """Adds up laps: each ends a stage, and the next begins.

    The first step of a process is not counted: libraries load and choose their algorithms in it.

    spent: what reading and decoding of the batches that came has taken, counted by the loader.
    """

    def __init__(self, timer: Timer, spent: Spent) -> None:
        self._timer, self._spent = timer, spent
        self._laps: deque[tuple[str, Any, Any]] = deque()
        self._last: Any = None
        self._totals: dict[str, float] = {}
        self._settled = False
        self._counted = 0
        self._begin()

    def _begin(self) -> None:
        self._totals = dict.fromkeys((WAIT, COPY, COMPUTE, EXCHANGE), 0.0)
        self._read, self._decode = self._spent.read_s, self._spent.decode_s
        self._counted = 0

    def restart(self) -> None:
        """Training goes on after something else took time."""
        self._last = self._timer.now()

    def lap(self, stage: str) -> None:
        """What has passed since the last lap was ``stage``."""
        now = self._timer.now()
        if self._last is not None:
            self._laps.append((stage, self._last, now))
        self._last = now

    def waited(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, each after a lap of waiting for it."""
        for batch in batches:
            self.lap(WAIT)
            yield batch

    def step(self) -> None:
        """A step has ended."""
        self._counted += 1
        if not self._settled:
            self._settled = True
            self._laps.clear()
            self._begin()
        self._add_up()

    def _add_up(self) -> None:
        """The laps whose ends the device has passed."""
        while self._laps and self._timer.has_passed(self._laps[0][2]):
            stage, start, end = self._laps.popleft()
            self._totals[stage] += self._timer.seconds(start, end)

    def times(self, *, reset: bool = False) -> StageTimes:
        """Since the start, or since they were last reset."""
        self._add_up()
        totals, wait = self._totals, self._totals[WAIT]
        read, decode = self._spent.read_s - self._read, self._spent.decode_s - self._decode
        of_read = read / (read + decode) if read + decode else 0.0
        times = StageTimes(
            read=wait * of_read,
            decode=wait * (1 - of_read),
            copy=totals[COPY],
            compute=totals[COMPUTE],
            exchange=totals[EXCHANGE],
            steps=self._counted,
            reading_s=read,
            decoding_s=decode,
        )
        if reset:
            self._begin()
        return times


def stage_clock(device: torch.device, spent: Spent) -> StageClock:
    return StageClock(CudaTimer() if device.type == "cuda" else HostTimer(), spent)


def slowest(ranks: Sequence[StageTimes]) -> StageTimes:
    """Of the rank that waits least for the others, and so is the one that they wait for."""
    return min(ranks, key=lambda times: times.share("exchange") if times.total else 1.0)


def held_back_by(times: StageTimes, loader_workers: int) -> str:
    """The stage that holds training back; ``loader_workers``: as of `sentence`."""
    others = max(times.share(stage) for stage in ("copy", "compute", "exchange"))
    enough = IDLE if loader_workers else others  # without processes all take turns
    if times.waiting >= enough:
        return "read" if times.read > times.decode else "decode"
    return max(("copy", "compute", "exchange"), key=times.share)


def sentence(times: StageTimes, *, loader_workers: int, cores: int, cached: bool) -> str:
    """What holds training back, its share, and what would help.

    Args:
        loader_workers: decode processes of one worker.
        cores: of the machine, for one worker.
        cached: images are read from the node's own disk.
    """
    stage = held_back_by(times, loader_workers)
    if stage in ("read", "decode"):
        advice = _more_workers(times.waiting, loader_workers, cores)
        what = "waiting for images"
        if stage == "read":
            what += " to be read"
            advice = advice if cached else "data.cache, a folder on each node's own disk,"
        return f"{what}: {times.waiting:.0%} of the step; {advice} would help".replace("%", " %")
    share = f"{times.share(stage):.0%} of the step".replace("%", " %")
    if stage == "exchange":
        return (
            f"waiting for other workers: {share}; a larger recipe.global_batch would exchange "
            f"gradients less often"
        )
    if stage == "copy":
        return f"copying images to the device: {share}"
    return f"computing: {share}; nothing else holds it back"


def _more_workers(waiting: float, loader_workers: int, cores: int) -> str:
    """How many decode processes would keep up with the network, as far as there are cores."""
    idle = max(1 - waiting, 1e-3)
    needed = math.ceil((loader_workers or waiting) / idle)
    wanted = min(needed, max(cores, 1), MOST_LOADER_WORKERS)
    if wanted > loader_workers:
        return f"data.loader_workers={wanted}"
    return f"smaller images or fewer augmentations, since {cores} cores a worker are all there are,"
