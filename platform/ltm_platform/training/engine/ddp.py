"""Training without ZeRO: torch's DistributedDataParallel."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from ltm_platform.training.engine.interface import Classifier

BUCKET_MB = 4


class DdpEngine:
    """An `Engine` whose ranks hold all weights and the whole optimizer.

    accumulation: micro-batches of a step. clip_grad: largest L2 norm of the gradient, 0 does not
    clip. autocast: forward passes are in bfloat16 where torch holds that to be safe.
    """

    skipped_steps = 0

    def __init__(
        self,
        module: Classifier,
        optimizer: Optimizer,
        device: torch.device,
        *,
        accumulation: int = 1,
        clip_grad: float = 0.0,
        autocast: bool = False,
    ) -> None:
        self.module = module.to(device)
        self.optimizer = optimizer
        self.device = device
        self.world_size = dist.get_world_size()
        self.global_rank = dist.get_rank()
        self.global_steps = 0
        self._micro_batches = 0
        self._accumulation = accumulation
        self._clip_grad = clip_grad
        self._autocast = autocast
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._ddp = self._wrapped() if self.world_size > 1 else None

    def _wrapped(self) -> DistributedDataParallel:
        ddp = DistributedDataParallel(
            _AllTakePart(self.module),
            # Else buckets are made again after the first step, and of three or more ranks one that
            # resumes would add up in another order than one that was not stopped.
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
            bucket_cap_mb=BUCKET_MB,
        )
        # `average_buffers` takes their mean. The keyword is named differently in each torch.
        ddp.broadcast_buffers = False
        return ddp

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """What `Classifier` returns for images [b, 3, H, W]."""
        last = (self._micro_batches + 1) % self._accumulation == 0
        network = self.module if self._ddp is None else self._ddp
        # It is the forward pass that decides whether the backward pass averages over ranks.
        local = nullcontext() if self._ddp is None or last else self._ddp.no_sync()
        with local, torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            seen: tuple[Tensor, ...] = network(images)
        return seen

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a micro-batch's loss to that of the step. With the step's last it
        becomes the average over ranks, bucket by bucket while it is computed. Collective."""
        (loss / self._accumulation).backward()

    def step(self) -> None:
        """A micro-batch is done; after the step's last one update the weights."""
        self._micro_batches += 1
        if self._micro_batches % self._accumulation:
            return
        for parameter in self._trained:
            # As ZeRO has it: else momentum and decay would depend on the stage.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self._clip_grad:
            nn.utils.clip_grad_norm_(self._trained, self._clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.global_steps += 1

    def get_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def zero_optimization_stage(self) -> int:
        return 0


class _AllTakePart(nn.Module):
    """The classifier, whose logits depend on all trained parameters, some with no gradient.

    DDP looks from the outputs for parameters that will get a gradient, but a method's loss may have
    parameters that no output depends on.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self._trained = [p for p in classifier.parameters() if p.requires_grad]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        logits, *others = self.classifier(images)
        return _Depending.apply(logits, *self._trained), *others


class _Depending(torch.autograd.Function):
    """The first argument, in a graph that has the others, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *others: Tensor) -> Tensor:
        ctx.others = len(others)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return (grad, *[None] * ctx.others)
