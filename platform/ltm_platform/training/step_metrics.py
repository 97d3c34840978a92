"""What training says while it runs, without making the device wait for it."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ltm_platform.events import SEND_INTERVAL_S, Listener, Progress

CHECK_STEPS = 10
KEPT_STEPS = 1000


class Diverged(Exception):  # noqa: N818 - an outcome of training, not a mistake in it
    """The loss or a weight is no number any more. Raised at the same step on all ranks."""


@dataclass(frozen=True, slots=True)
class _Gathering:
    """The parts of a step's loss on all ranks, [ranks, parts], once `work` is done."""

    ranks: Tensor
    work: dist.Work


class StepMeter:
    """Keeps the losses of past steps, of all ranks, on the device, and reads them together.

    Reading stops an asynchronous device until it has caught up. So rank 0 reads and sends a few
    times a second at most; and all ranks read every ``CHECK_STEPS`` steps, to stop together when a
    loss is not finite.

    parts: what a loss is made of, `Objective.parts`.
    """

    def __init__(self, send: Listener, global_batch: int, parts: tuple[str, ...]) -> None:
        self._send = send
        self._parts = parts
        self._global_batch = global_batch
        self._gathering: _Gathering | None = None
        self._unsent: list[tuple[int, int, float, Tensor]] = []
        self._unchecked: list[tuple[int, Tensor]] = []
        self._sent: deque[Progress] = deque(maxlen=KEPT_STEPS)
        self._window_start = time.perf_counter()

    def share(self, parts: Tensor) -> None:
        """The parts of the loss of this rank, before backward: they travel while it computes.
        Collective, as is the `step` that follows."""
        ranks = parts.new_empty(dist.get_world_size(), len(parts))
        work = dist.all_gather(list(ranks), parts, async_op=True)
        assert work is not None
        self._gathering = _Gathering(ranks, work)

    def step(self, step: int, epoch: int, lr: float, *, ends_epoch: bool = False) -> None:
        """The step whose loss was shared is done.

        ends_epoch: the throughput at this step is that of the epoch, which its summary has.

        Raises:
            Diverged: a part of the loss is not finite.
        """
        assert self._gathering is not None, "share comes first"
        self._gathering.work.wait()
        ranks, self._gathering = self._gathering.ranks, None
        self._unsent.append((step, epoch, lr, ranks.mean(0)))
        self._unchecked.append((step, ranks))
        elapsed = time.perf_counter() - self._window_start
        if elapsed >= SEND_INTERVAL_S and not ends_epoch:
            self._flush({"train/images_per_s": len(self._unsent) * self._global_batch / elapsed})
        if step % CHECK_STEPS == 0:
            self.check()

    def check(self) -> None:
        """Diverged, if a loss since the last check is not finite. All ranks call it together."""
        steps, self._unchecked = self._unchecked, []
        if not steps:
            return
        losses = torch.stack([ranks for _, ranks in steps])  # [steps, ranks, parts]
        broken = (~torch.isfinite(losses)).any(-1)
        if broken.any():  # reads the device once
            index, rank = broken.nonzero()[0].tolist()
            listed = self.describe(losses[index, rank].tolist())
            self.send_rest()
            step = steps[index][0]
            raise Diverged(f"the loss is not finite at step {step} on rank {rank}: {listed}")

    def tell(self, progress: Progress) -> None:
        """Send metrics, and keep them for the history of the next checkpoint."""
        self._sent.append(progress)
        self._send(progress)

    def history(self) -> str:
        """The last metrics that were told as JSON, for a checkpoint: a driver that dies loses what
        it was about to record."""
        return json.dumps([asdict(progress) for progress in self._sent])

    def replay(self, history: str) -> None:
        """Send what `history` holds again; who has them already leaves them out."""
        for values in json.loads(history):
            self.tell(Progress(**values))

    def describe(self, values: list[float]) -> str:
        """The parts of a loss in words."""
        named = zip(self._parts, values, strict=True)
        return ", ".join(f"{name} {value:g}" for name, value in named)

    def send_rest(self) -> None:
        """Send what is left; an epoch's own summary carries its throughput."""
        self._flush({})

    def restart_clock(self) -> None:
        """Training goes on after something else (validation, a checkpoint) took time."""
        self._window_start = time.perf_counter()

    def _flush(self, rate: dict[str, float]) -> None:
        if self._unsent:
            values = torch.stack([parts for *_, parts in self._unsent]).tolist()
            for (step, epoch, lr, _), row in zip(self._unsent, values, strict=True):
                metrics = dict(zip(self._parts, row, strict=True))
                self.tell(Progress(step, epoch, metrics | {"train/lr": lr}))
            last_step, last_epoch, *_ = self._unsent[-1]
            if rate:
                self._send(Progress(last_step, last_epoch, rate))
        self._unsent = []
        self.restart_clock()
