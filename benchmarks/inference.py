"""Images a second and peak memory of merged networks beside their base models.

    python benchmarks/inference.py
    python benchmarks/inference.py --backbones vit_s swin_t --methods ltm tome --ratios 0.8 0.6

Runs are interleaved, base and merged in turn, so that both see the same machine; the fastest of
each counts. "of MACs" is the measured speed-up divided by the base's MACs over the merged net's:
1 when time follows arithmetic. Memory is the largest resident set above that of an idle process,
each net in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from typing import Any

import torch
from torch import nn

import ltm

BACKBONES = ["mobilevit_xs", "mobilevit_s", "efficientvit_b1", "vit_s", "vit_b", "swin_t", "swin_b"]


def build(backbone: str, method: str, ratio: float | None) -> nn.Module:
    """A network in evaluation mode, with random weights."""
    torch.manual_seed(0)
    return ltm.create_model(backbone, method, compression_ratio=ratio, image_size=224).eval()


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


def _peak(arguments: tuple[Any, ...], batch: int, threads: int, queue: Any) -> None:
    torch.set_num_threads(threads)
    model, images = build(*arguments), torch.randn(batch, 3, 224, 224)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds(model, images)
    queue.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - idle) / 1024)


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
    parser.add_argument("--methods", nargs="+", default=["ltm"])
    parser.add_argument("--ratios", nargs="+", type=float, help="the default plan when omitted")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--channels-last", action="store_true", help="for both: faster convolutions"
    )
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    images = torch.randn(args.batch, 3, 224, 224).to(memory_format=layout)
    print(
        f"{'backbone':<17}{'method':<8}{'ratio':>6}{'GMACs':>8}{'images/s':>10}{'base':>8}"
        f"{'speed-up':>10}{'of MACs':>9}" + (f"{'MiB':>7}{'base':>7}" if args.memory else "")
    )
    for backbone in args.backbones:
        base = build(backbone, "none", None).to(memory_format=layout)
        base_gmacs = ltm.count(base, 224).gmacs
        for method in args.methods:
            for ratio in args.ratios or [None]:
                model = build(backbone, method, ratio).to(memory_format=layout)
                gmacs = ltm.count(model, 224).gmacs
                base_time, time_ = fastest([base, model], images, args.runs)
                speedup = base_time / time_
                line = (
                    f"{backbone:<17}{method:<8}{ratio or 'plan':>6}{gmacs:>8.3f}"
                    f"{args.batch / time_:>10.1f}{args.batch / base_time:>8.1f}{speedup:>10.3f}"
                    f"{speedup * gmacs / base_gmacs:>9.3f}"
                )
                if args.memory:
                    for arguments in ((backbone, method, ratio), (backbone, "none", None)):
                        line += f"{peak_memory(arguments, args.batch, args.threads):>7.0f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
