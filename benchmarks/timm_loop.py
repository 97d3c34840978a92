"""timm's plain training loop: what training.py compares with. Torch's launcher starts it.

A copy in small of timm's train.py: its data set, loader, transforms, AdamW, EMA and torch's DDP.
Rank 0 prints when an epoch begins and when a step has ended, with the images trained until then.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.distributed as dist
from timm.data import create_dataset, create_loader, resolve_model_data_config
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import ltm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--classes", type=int, required=True)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="over all workers")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--precision", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--ema-decay", type=float, required=True)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
    workers = dist.get_world_size()

    model = ltm.create_model(  # timm's own, by any name that submit knows
        args.backbone, "none", num_classes=args.classes, image_size=args.image_size
    ).to(device)
    pixels = resolve_model_data_config(model)
    loader = create_loader(
        create_dataset("", root=args.data, split="train"),
        input_size=(3, args.image_size, args.image_size),
        batch_size=args.batch // workers,
        is_training=True,
        use_prefetcher=False,
        color_jitter=None,
        interpolation="bicubic",
        mean=pixels["mean"],
        std=pixels["std"],
        num_workers=1,
        distributed=workers > 1,
    )
    network = DistributedDataParallel(model) if workers > 1 else model
    optimizer = create_optimizer_v2(network, opt="adamw", lr=2e-4, weight_decay=0.01)
    ema = ModelEmaV3(model, decay=args.ema_decay)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    images_seen = 0

    def tell() -> None:
        if dist.get_rank() == 0:
            print(time.time(), images_seen, flush=True)

    for epoch in range(args.epochs):
        if workers > 1:
            loader.sampler.set_epoch(epoch)
        tell()
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
                batch_loss = loss(network(images), labels)
            optimizer.zero_grad()
            batch_loss.backward()
            optimizer.step()
            ema.update(model)
            images_seen += len(images) * workers
            tell()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
