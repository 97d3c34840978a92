"""What the streaming IB statistics cost, beside the published way.

    python benchmarks/ib_overhead.py --backbone vit_s --batch 32

One training step is timed with and without the bound and its statistics at K = 1000 classes; the
difference is measured on the parts themselves, because it is smaller than the noise of a step. The
published script instead runs the whole training set forward once more every epoch: its share of a
step is one forward pass without gradients.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

import ltm

if TYPE_CHECKING:
    from collections.abc import Callable


def fastest(run: Callable[[], object], runs: int) -> float:
    """Seconds of the fastest of some runs, after one warm-up."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_s")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = ltm.create_model(args.backbone, num_classes=args.classes, image_size=224).train()
    images = torch.randn(args.batch, 3, 224, 224)
    labels = torch.randint(args.classes, (args.batch,))
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    def forward() -> None:
        with torch.no_grad():
            model(images)

    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    features = features.clone().requires_grad_()
    bottleneck = ltm.StreamingBottleneck(args.classes, features.shape[1])
    for start in range(0, args.classes, args.batch):  # every class seen: the steady state
        seen = (torch.arange(args.batch) + start) % args.classes
        bottleneck(features, seen, images)
        bottleneck.sync()

    def streaming() -> None:
        bottleneck(features, labels, images).backward()
        bottleneck.sync()

    whole, extra = fastest(step, args.runs), fastest(forward, args.runs)
    stream = fastest(streaming, 5 * args.runs)
    print(f"{args.backbone}, batch {args.batch}, {args.classes} classes, {args.threads} threads")
    print(f"training step             {1e3 * whole:9.1f} ms")
    print(f"streaming statistics      {1e3 * stream:9.1f} ms  {100 * stream / whole:6.2f} %")
    print(f"one extra pass an epoch   {1e3 * extra:9.1f} ms  {100 * extra / whole:6.2f} %")


if __name__ == "__main__":
    main()
