"""Batch normalisation over the images of several ranks, on any device and backend.

torch.nn.SyncBatchNorm, and timm's conversion to it, run on CUDA alone; this runs on gloo too, so
that what is tested on a CPU is what trains on GPUs. It costs one all-reduce of 2 C numbers a layer,
forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from ltm.adopt import adopt

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""All of torch's, and so all of timm's."""


class RankGroup:
    """Ranks that share statistics. Collective: all ranks make theirs at the same time.

    size: neighbouring ranks in a group, a divisor of the world size; None: all ranks are one.
    """

    def __init__(self, size: int | None = None) -> None:
        self._group = dist.new_subgroups(size)[0] if size else None

    def mean(self, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=self._group)
        return x / self.size

    @property
    def size(self) -> int:
        return dist.get_world_size(self._group)

    def __deepcopy__(self, _: object) -> RankGroup:
        """A copy of a network is normalised as the network is; a process group has no copy."""
        return self


class _Mean(torch.autograd.Function):
    """The mean over a group's ranks; its gradient is that of the sum of their losses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: RankGroup) -> Tensor:
        ctx.group = group
        return group.mean(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.group.mean(grad), None


def _normalised(norm: SyncBatchNorm2d | SyncBatchNormAct2d, x: Tensor) -> Tensor:
    """x [b, C, H, W] by mean and variance over the group; running statistics follow them."""
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    channels = (1, -1, 1, 1)
    with torch.autocast(x.device.type, enabled=False):
        full = x.float()
        var, mean = torch.var_mean(full, dim=(0, 2, 3), correction=0)
        # Second moments about the running mean, which all ranks share: about 0 they would cancel.
        about = norm.running_mean.float().clone()
        offset, moment = _Mean.apply(
            torch.stack([mean - about, var + (mean - about).square()]), norm.group
        ).unbind()
        mean, var = offset + about, moment - offset.square()
        scale = (var + norm.eps).rsqrt()
        out = (full - mean.view(channels)) * scale.view(channels)
        if norm.affine:
            out = out * norm.weight.view(channels) + norm.bias.view(channels)
        images = x.numel() // x.shape[1] * norm.group.size
        with torch.no_grad():
            unbiased = var * (images / max(1, images - 1))
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
    return out.to(x.dtype)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """torch's. Modifications: in training, statistics are those of the images of a group."""

    group: RankGroup

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(self, x)


class SyncBatchNormAct2d(BatchNormAct2d):
    """timm's batch norm with an activation. Modifications: as for `SyncBatchNorm2d`."""

    group: RankGroup

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(_normalised(self, x)))
        return out


_SYNCED: dict[type[nn.Module], type[SyncBatchNorm2d | SyncBatchNormAct2d]] = {
    nn.BatchNorm2d: SyncBatchNorm2d,
    BatchNormAct2d: SyncBatchNormAct2d,
}


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, BATCH_NORMS) for module in model.modules())


def strange_norm(model: nn.Module) -> str | None:
    """The kind of a batch norm that ranks cannot share."""
    norms = (module for module in model.modules() if isinstance(module, BATCH_NORMS))
    return next((type(norm).__name__ for norm in norms if type(norm) not in _SYNCED), None)


def synchronise(model: nn.Module, group: RankGroup) -> None:
    """Every batch norm inside the model becomes one over a group; names and weights stay.

    Raises:
        ValueError: the model has a batch norm of another kind.
    """
    if kind := strange_norm(model):
        raise ValueError(f"sync_bn is true, but cannot be for {kind}")
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BATCH_NORMS):
                norm = adopt(_SYNCED[type(child)], child)
                norm.group = group
                setattr(parent, name, norm)
