"""Gradients, averaged over ranks while backward still computes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deepspeed import DeepSpeedEngine
    from torch import Tensor, nn

BUCKET_BYTES = 4 * 2**20


class GradientExchange:
    """Averages the gradients of an engine without ZeRO, as torch's DDP does.

    DeepSpeed's own exchange begins when backward has ended. Here a gradient goes into its bucket as
    soon as it is there, those of the last layers first, and a full bucket travels while backward
    computes the next. Buckets leave in the same order on all ranks.
    """

    def __init__(self, engine: DeepSpeedEngine) -> None:
        self._engine = engine
        trained = [p for p in engine.module.parameters() if p.requires_grad]
        self._buckets = [_Bucket(part, 1 / engine.world_size) for part in _parts(reversed(trained))]
        self._sent: list[dist.Work] = []
        for bucket in self._buckets:
            for parameter in bucket.missing:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, bucket))

    def _arrived(self, bucket: _Bucket, parameter: nn.Parameter) -> None:
        if self._engine.is_gradient_accumulation_boundary():
            bucket.take(parameter)
            self._send()

    def _send(self) -> None:
        """The full buckets that are next."""
        for bucket in self._buckets[len(self._sent) :]:
            if bucket.missing:
                return
            work = dist.all_reduce(bucket.gradients, async_op=True)
            assert work is not None
            self._sent.append(work)

    def finish(self) -> None:
        """After backward: from here on gradients are the average over all ranks, where a step
        follows. Collective, in place of the engine's ``allreduce_gradients``."""
        if not self._engine.is_gradient_accumulation_boundary():
            return
        for bucket in self._buckets:
            for parameter in list(bucket.missing):
                bucket.take(parameter)
        self._send()
        for work in self._sent:
            work.wait()
        self._sent = []
        for bucket in self._buckets:
            bucket.reset()


class _Bucket:
    """Gradients that travel together.

    missing: the parameters whose gradients are not there yet, each with its place in ``gradients``.
    """

    def __init__(self, parameters: list[nn.Parameter], share: float) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        self.gradients = parameters[0].new_empty(sum(sizes))
        places = zip(parameters, self.gradients.split(sizes), strict=True)
        self._places = {parameter: place.view_as(parameter) for parameter, place in places}
        self._share = share
        self.reset()

    def reset(self) -> None:
        self.missing: dict[nn.Parameter, Tensor] = self._places.copy()

    @torch.no_grad()
    def take(self, parameter: nn.Parameter) -> None:
        """This rank's share of the average. The parameter's gradient is the place from here on.

        Zeros where the loss did not depend on the parameter, as of `fill_up`.
        """
        place = self.missing.pop(parameter)
        if parameter.grad is None:
            place.zero_()
        else:
            torch.mul(parameter.grad, self._share, out=place)
        parameter.grad = place


def fill_up(module: nn.Module) -> None:
    """Zeros for every trained parameter that the loss did not depend on, as ZeRO gives it: else its
    momentum and decay would depend on the stage."""
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _parts(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """In order, parts of about `BUCKET_BYTES` and one data type."""
    part: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if part and (size + parameter.nbytes > BUCKET_BYTES or parameter.dtype != part[0].dtype):
            yield part
            part, size = [], 0
        part.append(parameter)
        size += parameter.nbytes
    if part:
        yield part
