"""The least that Ray Train and DeepSpeed need for one step: what startup.py compares with.

Its argument is the file into which rank 0 writes the time after the step. The network is the
quickstart's, on as many workers; the images are noise, and nothing is checked or recorded.
"""

from __future__ import annotations

import sys

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

WORKERS = 2
GLOBAL_BATCH = 32


def train(config: dict[str, str]) -> None:
    import time
    from pathlib import Path

    import deepspeed
    import deepspeed.ops
    import torch

    import ltm

    # On CPUs DeepSpeed would compile an operator for inference, which no step uses.
    vars(deepspeed.ops)["__compatible_ops__"] = {}

    model = ltm.create_model(
        "vit_nano_patch4_32", num_classes=10, image_size=32, compression_ratio=0.7
    )
    settings = {
        "train_batch_size": GLOBAL_BATCH,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.AdamW(model.parameters())
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    micro_batch = GLOBAL_BATCH // WORKERS
    logits = engine(torch.randn(micro_batch, 3, 32, 32))
    engine.backward(torch.nn.functional.cross_entropy(logits, torch.randint(10, (micro_batch,))))
    engine.step()
    if engine.global_rank == 0:
        Path(config["file"]).write_text(str(time.time()))


if __name__ == "__main__":
    file, storage = sys.argv[1:]
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False)
    TorchTrainer(
        train,
        train_loop_config={"file": file},
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(storage_path=storage),
    ).fit()
