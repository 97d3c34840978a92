"""Top-1, top-5 and loss over a whole validation set, spread over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
import torch.nn.functional as F

from ltm.modes import evaluating
from ltm_platform.data.decode import pixel_rule
from ltm_platform.data.loader import EvalLoader
from ltm_platform.data.pixels.exact import ExactEvaluation
from ltm_platform.training.prefetch import DevicePrefetcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from ltm_platform.data import ImageSet
    from ltm_platform.data.pixels.on_device import ToNetwork
    from ltm_platform.job import Data
    from ltm_platform.models import Pixels
    from ltm_platform.training.engine.interface import Engine

    Batch = tuple[Tensor, Tensor, Tensor]


def validation_loader(
    data: Data,
    source: ImageSet,
    pixels: Pixels,
    *,
    batch: int,
    rank: int,
    world_size: int,
    workers: int,
) -> EvalLoader:
    """The images of ``source`` as the networks of a job with ``data`` are shown them.

    workers: decode processes of this rank.
    """
    return EvalLoader(
        source,
        ExactEvaluation(pixels.size),
        batch=batch,
        rank=rank,
        world_size=world_size,
        workers=workers,
        allow_bad=data.allow_bad,
        rule=pixel_rule(data),
    )


def evaluate(
    engine: Engine,
    batches: Iterable[Batch],
    to_network: ToNetwork,
    confusion: Tensor | None = None,
) -> dict[str, float]:
    """`score` of the network that an engine trains, in evaluation mode. Collective."""
    with evaluating(engine.module):
        scores = score(
            lambda images: engine(to_network(images))[0], batches, engine.device, confusion
        )
    return {key: value for key, value in scores.items() if key != "images"}


@torch.no_grad()
def score(
    logits_of: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    device: torch.device,
    confusion: Tensor | None = None,
) -> dict[str, float]:
    """``top1`` and ``top5`` in percent, mean cross-entropy ``loss``, ``images``. Collective.

    logits_of: images [b, 3, H, W] uint8 on the device -> [b, classes].
    confusion: zeros [classes, classes] on the device, which become the number of images by true
    and predicted class.
    batches: of an `EvalLoader`. Every image counts once: padding samples, which keep the number of
    forward passes equal on all ranks, are masked out. With fewer than five classes ``top5`` counts
    all of them.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # images, top-1, top-5, loss
    for images, labels, valid in DevicePrefetcher(batches, device):
        logits = logits_of(images).float()
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = (ranked == labels[:, None]) & valid[:, None]
        # nothing is picked by a mask: the host would wait for how much that is
        loss = F.cross_entropy(logits, labels, reduction="none").where(valid, 0.0).sum()
        sums += torch.stack([valid.sum(), hits[:, 0].sum(), hits.sum(), loss]).double()
        if confusion is not None:
            cells = labels * len(confusion) + ranked[:, 0]
            confusion.view(-1).scatter_add_(0, cells, valid.to(confusion.dtype))
    dist.all_reduce(sums)
    if confusion is not None:
        dist.all_reduce(confusion)
    images, top1, top5, loss = sums.tolist()
    return {
        "top1": 100 * top1 / images,
        "top5": 100 * top5 / images,
        "loss": loss / images,
        "images": round(images),
    }
