"""Batch normalisation over the images of all ranks, on any device and backend.

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


class _Mean(torch.autograd.Function):
    """The mean over ranks; its gradient is that of the sum of all ranks' losses."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return _mean_over_ranks(x)

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return _mean_over_ranks(grad)


def _mean_over_ranks(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x / dist.get_world_size()


def _normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """x [b, C, H, W] by mean and variance over all ranks; running statistics follow them."""
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
            torch.stack([mean - about, var + (mean - about).square()])
        ).unbind()
        mean, var = offset + about, moment - offset.square()
        scale = (var + norm.eps).rsqrt()
        out = (full - mean.view(channels)) * scale.view(channels)
        if norm.affine:
            out = out * norm.weight.view(channels) + norm.bias.view(channels)
        images = x.numel() // x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            unbiased = var * (images / max(1, images - 1))
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
    return out.to(x.dtype)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """torch's. Modifications: in training, statistics are those of all ranks' images."""

    def forward(self, x: Tensor) -> Tensor:
        return _normalised(self, x)


class SyncBatchNormAct2d(BatchNormAct2d):
    """timm's batch norm with an activation. Modifications: as for `SyncBatchNorm2d`."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(_normalised(self, x)))
        return out


_SYNCED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: SyncBatchNorm2d,
    BatchNormAct2d: SyncBatchNormAct2d,
}


def synchronise(model: nn.Module) -> None:
    """Every batch norm inside the model becomes one over all ranks; names and weights stay.

    Raises:
        ValueError: the model has a batch norm of another kind.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, BATCH_NORMS):
                continue
            if type(child) not in _SYNCED:
                raise ValueError(f"sync_bn is true, but cannot be for {type(child).__name__}")
            setattr(parent, name, adopt(_SYNCED[type(child)], child))
