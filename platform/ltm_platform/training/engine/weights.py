"""The weights of a sharded model: gathered for export, averaged shard by shard."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ltm_platform.compat.deepspeed_engine import drop_gathered, own_fragment, own_shard

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from contextlib import AbstractContextManager

    from torch import nn

    from ltm_platform.training.engine.interface import Engine


def _whole(
    engine: Engine, parameter: nn.Parameter, *, written_by: int | None = None
) -> AbstractContextManager[None]:
    """The parameter is whole inside the block; what rank ``written_by`` puts there is kept.
    Collective at stage 3."""
    if engine.zero_optimization_stage() < 3:
        return nullcontext()
    from deepspeed import zero

    gathered: Any = zero.GatheredParameters([parameter], modifier_rank=written_by)
    return gathered


def gather_weights(engine: Engine) -> dict[str, Tensor]:
    """The whole model's state dict on the CPU of rank 0, empty on the others. Collective.

    Parameters are gathered one at a time, so that no rank ever holds more than the largest.
    """
    keep = engine.global_rank == 0
    model = engine.module.model
    weights = {}
    for name, parameter in model.named_parameters():
        with _whole(engine, parameter):
            if keep:
                weights[name] = parameter.detach().float().cpu().clone()
    if keep:
        persistent = model.state_dict().keys()
        for name, buffer in model.named_buffers():
            if name in persistent:
                weights[name] = buffer.detach().cpu().clone()
    return weights


@torch.no_grad()
def load_weights(engine: Engine, weights: dict[str, Tensor]) -> None:
    """Whole weights, as `gather_weights` gives them, into the model of every rank. Collective."""
    model = engine.module.model
    for name, parameter in model.named_parameters():
        with _whole(engine, parameter, written_by=0):
            parameter.copy_(weights[name])
    for name, buffer in model.named_buffers():
        if name in weights:
            buffer.copy_(weights[name])


@torch.no_grad()
def copy_zeros(engine: Engine, parameters: Collection[nn.Parameter]) -> None:
    """Where whole parameters are 0, so are the optimizer's own copies of them, which ZeRO has."""
    if engine.zero_optimization_stage() == 0:
        return
    for parameter in parameters:
        fragment = own_fragment(engine, parameter) if parameter.requires_grad else None
        if fragment is not None:
            zero = parameter.detach().view(-1)[fragment.part] == 0
            own = fragment.flat.data.view(-1)[fragment.inside]
            own.masked_fill_(zero.to(own.device), 0)


def weights_are_finite(engine: Engine) -> bool:
    """Whether no rank holds a weight that is NaN or infinite. Collective."""
    finite = [torch.isfinite(shard).all() for shard in shards(engine)]
    # Offloaded shards lie in the CPU's memory, buffers do not.
    broken = (~torch.stack([one.to(engine.device) for one in finite])).any().float()
    dist.all_reduce(broken)
    return not broken.item()


def shards(engine: Engine) -> list[Tensor]:
    """What this rank holds: parameters, whole or sharded, then floating-point buffers."""
    parameters = [own_shard(engine, parameter) for parameter in engine.module.parameters()]
    return parameters + _float_buffers(engine)


def average_buffers(engine: Engine, ema: ShardedEma | None) -> None:
    """Running statistics (batch norm) become their mean over ranks, in the EMA too. Collective.

    Each rank gathers its own from its own images; the network that is scored and stored has one.
    """
    for buffer in [*_float_buffers(engine), *(ema.buffers() if ema else [])]:
        dist.all_reduce(buffer)
        buffer /= engine.world_size


def _float_buffers(engine: Engine) -> list[Tensor]:
    return [b for b in engine.module.buffers() if b.is_floating_point()]


class ShardedEma:
    """An exponential moving average of the weights, kept on the shard that each rank owns.

    At ZeRO stage 3 a rank holds ``1 / world size`` of it; at the other stages every rank holds
    all. Averaging is elementwise, so the shards' averages are the average's shards.
    """

    def __init__(self, engine: Engine, decay: float) -> None:
        self._engine = engine
        self.decay = decay
        # In fp32 whatever the weights are in: a step's share of the average is too small for fp16.
        self._average = [shard.float().clone() for shard in shards(engine)]
        self._mix = get_ema_multi_avg_fn(decay)

    def buffers(self) -> list[Tensor]:
        """The averages of the model's floating-point buffers."""
        return self._average[len(self._average) - len(_float_buffers(self._engine)) :]

    @torch.no_grad()
    def update(self) -> None:
        """average <- decay * average + (1 - decay) * weights, after an optimizer step."""
        weights = [shard.float() for shard in shards(self._engine)]
        self._mix(self._average, weights, None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside the block. Collective at stage 3."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        if self._engine.zero_optimization_stage() == 3:
            # Gathered copies may outlive a forward pass and would hide the exchange.
            drop_gathered(self._engine)
        for average, shard in zip(self._average, shards(self._engine), strict=True):
            swapped = shard.clone()
            shard.copy_(average)
            average.copy_(swapped)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take over whole averages, as `gather_weights` gives them when applied. Collective.

        They are whole so that another number of ranks can continue them.
        """
        with self.applied():
            load_weights(self._engine, weights)
