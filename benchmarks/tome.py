"""Images a second of our ToMe beside a plain implementation of its paper.

    python benchmarks/tome.py
    python benchmarks/tome.py --backbone vit_b --r 8 --runs 5

`Plain` follows arXiv 2210.09461, section 3, in the shortest way: bipartite soft matching by keys
with the class token held back, merging by gather and scatter_reduce, sizes carried along, and
proportional attention, for which it has torch's fused attention, as ours. All share the memory of
their weights. Runs are interleaved, base, plain and ours in turn and back; of each the fastest
counts, by the clock and by the CPU time of all threads, which other processes disturb less. Where
tensors happen to lie in memory moves matrix products by some percent, for as long as a process
lives: so several processes measure, one after the other.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ltm

if TYPE_CHECKING:
    from collections.abc import Callable


def bipartite_soft_matching(metric: Tensor, r: int, prefix: int) -> Callable[[Tensor], Tensor]:
    """What sums the r most similar pairs of tokens, given their keys [B, T, d].

    The first `prefix` tokens, at most one, never merge.
    """
    r = min(r, (metric.shape[1] - prefix) // 2)
    metric = metric / metric.norm(dim=-1, keepdim=True)
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(-1, -2)
    if prefix:
        scores[:, 0] = -torch.inf
    best, partner = scores.max(-1)
    edges = best.argsort(-1, descending=True)[..., None]
    merged, alone = edges[:, :r], edges[:, r:].sort(1).values  # the class token stays the first
    partner = partner[..., None].gather(1, merged)

    def merge(x: Tensor) -> Tensor:
        source, target = x[:, ::2], x[:, 1::2]
        D = x.shape[-1]
        moved = source.gather(1, merged.expand(-1, -1, D))
        stays = source.gather(1, alone.expand(-1, -1, D))
        target = target.scatter_reduce(1, partner.expand(-1, -1, D), moved, "sum")
        return torch.cat([stays, target], 1)

    return merge


class Plain(nn.Module):
    """timm's ViT, which merges r tokens between attention and MLP of every block."""

    def __init__(self, model: Any, r: int) -> None:
        super().__init__()
        self.model, self.r = model, r

    def forward(self, images: Tensor) -> Tensor:
        model = self.model
        x = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        size = None
        for block in model.blocks:
            y, keys = attend(block.attn, block.norm1(x), size)
            x = x + block.ls1(y)
            merge = bipartite_soft_matching(keys, self.r, model.num_prefix_tokens)
            size = torch.ones_like(x[..., :1]) if size is None else size
            x, size = merge(x * size), merge(size)
            x = x / size
            x = x + block.ls2(block.mlp(block.norm2(x)))
        return model.forward_head(model.norm(x))


def attend(attention: Any, x: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d) + log s) V, projected, and the keys' mean over heads."""
    B, T, D = x.shape
    qkv = attention.qkv(x).reshape(B, T, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    bias = None if size is None else size.log()[:, None, None, :, 0]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return attention.proj(y.transpose(1, 2).reshape(B, T, D)), k.mean(1)


@torch.inference_mode()
def seconds(model: nn.Module, images: Tensor) -> tuple[float, float]:
    """One forward pass: by the clock, and of all threads of this process."""
    start = time.perf_counter(), time.process_time()
    model(images)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def fastest(models: list[nn.Module], images: Tensor, runs: int) -> list[tuple[float, ...]]:
    """Of each model the least times, runs interleaved after one warm-up."""
    times: list[list[tuple[float, float]]] = [[] for _ in models]
    there = list(range(len(models)))
    for run in range(-1, runs):
        for number in there if run % 2 else reversed(there):
            taken = seconds(models[number], images)
            if run >= 0:
                times[number].append(taken)
    return [tuple(min(column) for column in zip(*rows, strict=True)) for rows in times]


def measure(backbone: str, r: int, batch: int, threads: int, runs: int) -> list[tuple[float, ...]]:
    """Seconds by the clock and of the CPU, of the base, the plain implementation and ours."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    base: Any = ltm.create_model(backbone, "none").eval()
    ours: Any = ltm.create_model(backbone, "tome", r=r).eval()
    ours.load_state_dict(base.state_dict(), assign=True)
    images = torch.randn(batch, 3, *base.patch_embed.img_size)
    return fastest([base, Plain(base, r).eval(), ours], images, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_s", help="a plain ViT")
    parser.add_argument("--r", type=int, nargs="+", default=[8, 13])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=6, help="in every process")
    parser.add_argument("--processes", type=int, default=5)
    args = parser.parse_args()
    print(f"{args.backbone}, batch {args.batch}, {args.threads} threads; ms of a forward pass")
    print(
        f"{'r':>4}{'base':>9}{'plain':>9}{'ours':>9}{'ours/plain':>12}"
        f"{'CPU base':>10}{'plain':>9}{'ours':>9}{'ours/plain':>12}  of each process"
    )
    context = multiprocessing.get_context("spawn")
    for r in args.r:
        words = (args.backbone, r, args.batch, args.threads, args.runs)
        with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
            asked = [pool.submit(measure, *words) for _ in range(args.processes)]
            found = [one.result() for one in asked]
        line = f"{r:>4}"
        for width, clock in ((9, 0), (10, 1)):
            bare, plain, own = zip(*([net[clock] for net in nets] for nets in found), strict=True)
            line += f"{1000 * min(bare):>{width}.1f}{1000 * min(plain):>9.1f}"
            line += f"{1000 * min(own):>9.1f}{min(plain) / min(own):>12.3f}"
        # by the CPU time
        each = " ".join(f"{nets[1][1] / nets[2][1]:.3f}" for nets in found)
        print(f"{line}  {each}", flush=True)


if __name__ == "__main__":
    main()
