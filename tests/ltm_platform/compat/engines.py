"""A DeepSpeed engine at every stage, alone in this process, and what compat says of it.

    python engines.py FILE

Leaves in FILE, a torch file, by the stage what `test_deepspeed_engine.py` looks at.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ltm_platform.compat import deepspeed_engine as compat
from ltm_platform.compat.deepspeed import import_deepspeed
from ltm_platform.training.worker_context import SINGLE_PROCESS

BATCH = 2


def build(stage: int, *, half: bool = False, offload: bool = False, sgd: bool = False) -> Any:
    import deepspeed

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": BATCH,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
    }
    if half:
        config["fp16"] = {"enabled": True, "auto_cast": True, "loss_scale": 0}
    if offload:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        config["zero_force_ds_cpu_optimizer"] = False
    kind = torch.optim.SGD if sgd else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )
    return engine


def step(engine: Any, images: torch.Tensor) -> None:
    engine.backward(engine(images).square().sum())
    engine.step()


def fragments(engine: Any) -> list[dict[str, Any]]:
    """Of every parameter: what it is as a whole, and what compat finds of it in the shards."""
    from deepspeed import zero

    found = []
    for parameter in engine.module.parameters():
        fragment = compat.own_fragment(engine, parameter)
        assert fragment
        state = compat.wrapped_optimizer(engine).state[fragment.flat]
        kept = fragment.flat.detach().view(-1)[fragment.inside].clone()
        shard = compat.own_shard(engine, parameter).float().clone()
        shape = compat.full_shape(parameter)
        with zero.GatheredParameters([parameter], enabled=parameter.numel() == 0):
            found.append(
                {
                    "whole": parameter.detach().flatten()[fragment.part].float().clone(),
                    "kept": kept,
                    "shard": shard.flatten(),
                    "shapes": (tuple(parameter.shape), tuple(shape)),
                    "state": {key: value.shape for key, value in state.items()},
                    "flat": fragment.flat.shape,
                }
            )
    return found


def shows_changed_shards(engine: Any) -> bool:
    """Whether zeros in all shards are zeros in the network."""
    engine.eval()
    for parameter in engine.module.parameters():
        compat.own_shard(engine, parameter).zero_()
    compat.drop_gathered(engine)
    with torch.no_grad():
        return not engine(torch.ones(1, 3)).any()


def at_stage(stage: int) -> dict[str, Any]:
    engine = build(stage)
    scale = compat.loss_scale(engine)
    step(engine, torch.ones(BATCH, 3))
    seen: dict[str, Any] = {
        "scale": scale,
        "fragments": fragments(engine),
        "steps": (engine.global_steps, engine.skipped_steps),
    }
    step(engine, torch.full((BATCH, 3), torch.inf))
    seen["after an overflow"] = (engine.global_steps, engine.skipped_steps)
    compat.set_loss_scale(engine, {"cur_scale": 1.0, "cur_iter": 7})
    compat.set_progress(engine, steps=40, skipped=3)
    step(engine, torch.ones(BATCH, 3))
    seen["further steps"] = (engine.global_steps, engine.skipped_steps)
    seen["shards are the weights"] = shows_changed_shards(engine)
    seen["attributes"] = {
        "rank": engine.global_rank,
        "workers": engine.world_size,
        "device": engine.device,
        "boundary": engine.is_gradient_accumulation_boundary(),
    }
    return seen


def in_half_precision() -> dict[str, Any]:
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed asks the CPU for matrix units that work in fp16; torch can do without.
    get_accelerator().is_fp16_supported = lambda: True
    engine = build(1, half=True)
    first = compat.loss_scale(engine)
    compat.set_loss_scale(engine, first | {"cur_scale": 256.0, "cur_iter": 7.0})
    return {"first": first, "then": compat.loss_scale(engine)}


def moves_without_gradient(stage: int, *, offload: bool, cleared: bool) -> bool:
    """Whether a step of SGD moves a layer that its loss does not depend on."""
    engine = build(stage, offload=offload, sgd=True)
    images = torch.ones(BATCH, 3)
    step(engine, images)
    if cleared:
        compat.clear_gradients(engine)
    last = engine.module[1].weight
    before = compat.own_shard(engine, last).clone()
    engine(images)
    engine.backward(engine.module[0](images).square().sum())
    engine.step()
    return not torch.equal(before, compat.own_shard(engine, last))


def main() -> None:
    import_deepspeed()
    os.environ.update(SINGLE_PROCESS)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    seen: dict[Any, Any] = {stage: at_stage(stage) for stage in range(4)}
    seen["moves"] = {
        (stage, offload, cleared): moves_without_gradient(stage, offload=offload, cleared=cleared)
        for stage in (1, 2, 3)
        for offload in (False, True)
        for cleared in (False, True)
    }
    torch.save(seen | {"half": in_half_precision()}, sys.argv[1])


if __name__ == "__main__":
    main()
