"""Which of two networks is faster here."""

from __future__ import annotations

import time
from typing import Any

import torch

from ltm.flops import channels_of, image_size_of
from ltm.modes import evaluating

BATCH, TURNS = 8, 5


@torch.no_grad()
def faster(model: Any, beside: Any) -> bool:
    """Whether a forward pass of `model` takes no more time than one of `beside`.

    Each runs TURNS times on BATCH random images, in turns, after one that does not count, and the
    fastest counts: what else goes on slows both down. On the GPU, if there is one, where both are
    while it lasts.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    like = next(beside.parameters())
    home, dtype = like.device, like.dtype
    shape = BATCH, channels_of(beside), *image_size_of(beside)
    images = torch.rand(shape, device=device, dtype=dtype)
    best = [float("inf"), float("inf")]
    with evaluating(model), evaluating(beside):
        nets = [model.to(device), beside.to(device)]
        for turn in range(TURNS + 1):
            for i, net in enumerate(nets):
                seconds = _seconds(net, images)
                best[i] = min(best[i], seconds) if turn else best[i]
        for net in nets:
            net.to(home)
    return best[0] <= best[1]


def _seconds(model: Any, images: torch.Tensor) -> float:
    start = time.perf_counter()
    model(images).sum().item()  # a GPU has then done its work
    return time.perf_counter() - start
