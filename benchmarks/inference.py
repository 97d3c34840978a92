"""Images a second and peak memory of merged networks beside their base models.

    python benchmarks/inference.py
    python benchmarks/inference.py --backbones vit_s swin_t --methods ltm tome --ratios 0.8 0.6
    python benchmarks/inference.py --backbones vit_s --methods all --part 0.7

Every method that reduces tokens is measured, each at the plan that it has by default, at `--ratios`
of the tokens, or at `--part` of the base's MACs, which is the same for all. LTMP keeps the plan's
number of tokens of every image here: how many pass its thresholds depends on what it has learned.

All nets are prepared as for serving: channels-last, batch norms folded into the convolutions before
them (`--as-trained` does neither). Runs are interleaved, base and all merged nets in turn, so that
they see the same machine; the fastest of each counts. "of MACs" is the measured speed-up divided by
the base's MACs over the merged net's: 1 when time follows arithmetic. "merge %" is the share of the
pass that goes into masks and merging. Memory is the largest resident set above that of an idle
process, each net in a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from contextlib import ExitStack
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import ltm
from ltm.backbones._base import Merging

if TYPE_CHECKING:
    from collections.abc import Callable

OPTIONS: dict[str, dict[str, Any]] = {"ltmp": {"varies": False}}
BACKBONES = ["mobilevit_xs", "mobilevit_s", "efficientvit_b1", "vit_s", "vit_b", "swin_t", "swin_b"]


def build(backbone: str, method: str, wish: dict[str, float], as_trained: bool) -> nn.Module:
    """A network in evaluation mode, with random weights."""
    torch.manual_seed(0)
    options = OPTIONS.get(method, {})
    model = ltm.create_model(backbone, method, image_size=224, **wish, **options)
    model = ltm.compacted(model).eval()
    if as_trained:
        return model
    fold_batch_norms(model)
    return model.to(memory_format=torch.channels_last)


def fold_batch_norms(model: nn.Module) -> None:
    """Fold every batch norm into the convolution before it; its activation stays."""
    for parent in model.modules():
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, conv_name, fuse_conv_bn_eval(conv, norm))
                # timm's batch norm holds dropout and activation too
                rest = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
                setattr(parent, norm_name, nn.Sequential(*rest))


@torch.inference_mode()
def seconds(model: nn.Module, images: torch.Tensor) -> float:
    """One forward pass."""
    start = time.perf_counter()
    model(images)
    return time.perf_counter() - start


def fastest(models: list[nn.Module], images: torch.Tensor, runs: int) -> list[float]:
    """The fastest forward pass of each model, in seconds, runs interleaved after one warm-up."""
    times = [[seconds(model, images) for model in models] for _ in range(runs + 1)][1:]
    return [min(column) for column in zip(*times, strict=True)]


@torch.inference_mode()
def merge_share(model: Any, images: torch.Tensor, runs: int) -> float:
    """Percent of a forward pass that masks and merging take, in the run where it is least."""
    spent, inside = 0.0, False

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal spent, inside
            if inside:
                return function(*args, **options)
            start, inside = time.perf_counter(), True
            result = function(*args, **options)
            spent, inside = spent + time.perf_counter() - start, False
            return result

        return run

    shares = []
    with ExitStack() as stack:
        for name in ("__call__", "apply", "merged_mass"):
            stack.enter_context(patch.object(Merging, name, timed(getattr(Merging, name))))
        for _ in range(runs):
            spent = 0.0
            whole = seconds(model, images)
            shares.append(100 * spent / whole)
    return min(shares)


def _resident() -> int:
    """KiB: the largest resident set of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0])


def _peak(arguments: tuple[Any, ...], batch: int, threads: int, queue: Any) -> None:
    torch.set_num_threads(threads)
    model, images = build(*arguments), torch.randn(batch, 3, 224, 224)
    idle = _resident()
    seconds(model, images)
    queue.put((_resident() - idle) / 1024)


def peak_memory(arguments: tuple[Any, ...], batch: int, threads: int) -> float:
    """MiB that one forward pass adds to a process that holds model and images."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(arguments, batch, threads, queue))
    process.start()
    peak: float = queue.get()
    process.join()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    all_methods = ltm.list_token_methods()
    parser.add_argument("--methods", nargs="+", default=["all"], choices=["all", *all_methods])
    budgets = parser.add_mutually_exclusive_group()
    budgets.add_argument("--ratios", nargs="+", type=float, help="the default plan when omitted")
    budgets.add_argument("--part", type=float, help="of the base's MACs")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--as-trained", action="store_true", help="contiguous, batch norms not folded"
    )
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    layout = torch.contiguous_format if args.as_trained else torch.channels_last
    images = torch.randn(args.batch, 3, 224, 224).to(memory_format=layout)
    print(f"batch {args.batch}, {args.threads} threads, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'backbone':<17}{'method':<13}{'ratio':>6}{'GMACs':>8}{'images/s':>10}{'base':>8}"
        f"{'speed-up':>10}{'of MACs':>9}{'merge %':>9}"
        + (f"{'MiB':>7}{'base':>7}" if args.memory else "")
    )
    for backbone in args.backbones:
        base = build(backbone, "none", {}, args.as_trained)
        base_gmacs = ltm.count(base, 224).gmacs
        wishes = [{"compression_ratio": ratio} for ratio in args.ratios or []] or [{}]
        if args.part:
            wishes = [{"target_gmacs": args.part * base_gmacs}]
        methods = all_methods if "all" in args.methods else args.methods
        wanted = list(product(methods, wishes))
        models = [build(backbone, *net, args.as_trained) for net in wanted]
        base_time, *times = fastest([base, *models], images, args.runs)
        for (method, wish), model, time_ in zip(wanted, models, times, strict=True):
            gmacs = ltm.count(model, 224).gmacs
            speedup = base_time / time_
            line = (
                f"{backbone:<17}{method:<13}{wish.get('compression_ratio', 'plan'):>6}"
                f"{gmacs:>8.3f}{args.batch / time_:>10.1f}{args.batch / base_time:>8.1f}"
                f"{speedup:>10.3f}{speedup * gmacs / base_gmacs:>9.3f}"
                f"{merge_share(model, images, args.runs):>9.2f}"
            )
            if args.memory:
                for net in ((method, wish), ("none", {})):
                    arguments = (backbone, *net, args.as_trained)
                    line += f"{peak_memory(arguments, args.batch, args.threads):>7.0f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
