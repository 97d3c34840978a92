"""What one GPU makes of a training step, beside timm's: at most 8 minutes, one command.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --parts step attention --networks vit_small_patch16_224
    python benchmarks/gpu.py --tiny        every part in its smallest form, on a CPU too

Writes gpu.json and gpu.md into --out, and prints the latter. It needs torch, timm and DeepSpeed;
the part `submit` needs Ray, and is left out without it. What does not fit into --minutes is left
out, and said.

step       images/s of our training step (IB loss, its statistics, EMA) and of that of timm's
           train.py, on the same network, images and optimizer: bf16, channels last, with and
           without torch.compile; LTM over base beside the MACs that it saves; the peak of the
           memory beside what `ltm-platform plan` says at least
disk       our step with our loader, on generated JPEGs of 500 x 400
attention  proportional attention forward and backward, with a mask and with appended channels
losses     of the same batches on the CPU, and here at ZeRO 0 to 3 in fp32; steps that overflow in
           fp16 at ZeRO 1 to 3, and whether training goes on
copies     a batch to the GPU from pinned memory and from other
submit     `ltm-platform submit` of the same job, from its own figures
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist

from benchmarks.gpu import parts, steps
from benchmarks.gpu.bench import FULL, TINY, Bench, Size, generate
from ltm_platform.compat.deepspeed import import_deepspeed
from ltm_platform.training.engine.device import set_up

PARTS = {
    "step": steps.step,
    "attention": parts.attention,
    "losses": parts.losses,
    "copies": parts.copies,
    "disk": steps.disk,
    "submit": parts.submit,
}


def device_here() -> tuple[torch.device, str]:
    """What is measured, and its name."""
    if torch.cuda.is_available():
        return torch.device("cuda", 0), torch.cuda.get_device_name(0)
    return torch.device("cpu"), "a CPU: no figure here is a GPU's"


def as_markdown(found: dict[str, Any]) -> str:
    """The tables, one a part."""
    lines = [f"Measured on {found['device']}, torch {found['torch']}."]
    for part, rows in found["parts"].items():
        if not rows:
            continue
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {part}", "", f"| {' | '.join(keys)} |", "|---" * len(keys) + "|"]
        lines += [f"| {' | '.join(_shown(row.get(key)) for key in keys)} |" for row in rows]
    lines += ["", *(f"Left out: {what}." for what in found["left out"])]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--networks", nargs="+", choices=FULL.networks, default=[*FULL.networks])
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    chosen = {name: FULL.networks[name] for name in args.networks}
    size = TINY if args.tiny else Size(**{**vars(FULL), "networks": chosen})
    device, name = device_here()
    os.environ.update(parts.ALONE)
    import_deepspeed()
    import deepspeed.comm

    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.comm.init_distributed(dist_init_required=False)
    set_up(device)
    with tempfile.TemporaryDirectory(prefix="ltm-gpu-") as folder:
        generate(Path(folder), train=max(size.jpegs, size.batch), val=2)
        bench = Bench(size, device, Path(folder), until)
        found: dict[str, Any] = {"device": name, "torch": torch.__version__, "parts": {}}
        for part in args.parts:
            if part == "submit" and not importlib.util.find_spec("ray"):
                bench.left_out.append("submit, since there is no Ray")
            elif bench.fits(part):
                found["parts"][part] = PARTS[part](bench)
                print(f"{part} done", file=sys.stderr, flush=True)
    found["left out"] = bench.left_out
    (args.out / "gpu.json").write_text(json.dumps(found, indent=1))
    (args.out / "gpu.md").write_text(as_markdown(found))
    print(as_markdown(found))
    deepspeed.comm.destroy_process_group()


if __name__ == "__main__":
    main()
