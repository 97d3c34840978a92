"""Measured inference speed of the finished network on the device it was trained on."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from ltm.modes import evaluating

BATCH = 16
BUDGET_S = 1.0


def _seconds_per_batch(model: nn.Module, images: torch.Tensor) -> float:
    """Median over as many passes as fit the time budget, three at least, after one to warm up."""
    synchronize = torch.cuda.synchronize if images.is_cuda else lambda: None
    model(images)
    synchronize()
    times: list[float] = []
    while len(times) < 3 or sum(times) < BUDGET_S:
        start = time.perf_counter()
        model(images)
        synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.inference_mode()
def inference_speed(model: nn.Module, image_size: int, device: torch.device) -> dict[str, float]:
    """``latency_ms`` of one image and ``images_per_s`` at batch 16, with the rank's own threads."""
    images = torch.randn(BATCH, 3, image_size, image_size, device=device)
    with evaluating(model.to(device)):
        return {
            "latency_ms": 1000 * _seconds_per_batch(model, images[:1]),
            "images_per_s": BATCH / _seconds_per_batch(model, images),
        }
