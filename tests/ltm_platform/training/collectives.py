"""What ranks do together without a Trainer, for the tests of several ranks (see `RankPool`)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from ltm_platform.errors import UserError
from ltm_platform.job.batch import micro_batches as divisors
from ltm_platform.training.engine.sync_bn import RankGroup, synchronise
from ltm_platform.training.measurement.micro_batch import find_micro_batch, largest

from .small_run import CLASSES, MODEL, small_job


def norm_layers() -> dict[str, Any]:
    """A batch norm over all ranks, and torch's own over the whole batch."""
    rank, workers = dist.get_rank(), dist.get_world_size()
    random = torch.Generator().manual_seed(0)
    images = 3 + 2 * torch.randn(4, 8, 5, 5, generator=random)
    weight = torch.randn(images.shape, generator=random)
    seen: dict[str, Any] = {}
    for kind, build in {"torch": nn.BatchNorm2d, "timm": BatchNormAct2d}.items():
        for over in ("all", "ranks"):
            net = nn.Sequential(build(8))
            nn.init.uniform_(net[0].weight, generator=torch.Generator().manual_seed(1))
            first, last = 0, 4
            if over == "ranks":
                synchronise(net, RankGroup())
                first, last = rank * 4 // workers, (rank + 1) * 4 // workers
            x = images[first:last].clone().requires_grad_()
            for _ in range(2):
                y = net(x)
            (y * weight[first:last]).sum().backward()
            if over == "ranks":
                for parameter in net.parameters():
                    dist.all_reduce(parameter.grad)
            grads = [parameter.grad for parameter in net.parameters()]
            state = net.eval().state_dict()
            seen[f"{kind} {over}"] = [y.detach(), x.grad, net(images).detach(), grads, state]
        seen["share"] = (first, last)
    return seen


def norm_groups() -> dict[str, Any]:
    """Batch norm over pairs of ranks, and torch's own over the images of this rank's pair."""
    rank = dist.get_rank()
    random = torch.Generator().manual_seed(0)
    images = 3 + 2 * torch.randn(8, 4, 5, 5, generator=random)
    weight = torch.randn(images.shape, generator=random)
    norms = nn.Sequential(nn.BatchNorm2d(4))
    synchronise(norms, RankGroup(2))
    pair, own = rank // 2 * 4, rank * 2
    seen = {}
    for kind, net, first, count in (
        ("shared", deepcopy(norms), own, 2),  # as a copy without its closed heads is made
        ("plain", nn.Sequential(nn.BatchNorm2d(4)), pair, 4),
    ):
        x = images[first : first + count].clone().requires_grad_()
        y = net(x)
        (y * weight[first : first + count]).sum().backward()
        of_rank = slice(own - pair, own - pair + 2) if kind == "plain" else slice(None)
        seen[kind] = [y.detach()[of_rank], x.grad[of_rank], net[0].running_var]
    return seen


def micro_batches() -> dict[str, Any]:
    """Rank 1 has less memory than rank 0."""
    device = torch.device("cpu")

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= (16, 7)[dist.get_rank()]

    tried: list[int] = []
    seen: dict[str, Any] = {"agreed": largest(divisors(24, even=False), fits, device)}
    seen["tried"] = tried
    try:
        largest([16, 32], fits, device)
    except UserError as error:
        seen["refused"] = str(error)
    job = small_job({"model": MODEL}, recipe__sync_bn=True, recipe__micro_batch="auto")
    seen["found"] = find_micro_batch(job, CLASSES, 24, device, 2)
    return seen
