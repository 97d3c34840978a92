"""The engine around a classifier: DeepSpeed's with ZeRO, torch's DDP without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ltm_platform.compat.deepspeed import import_deepspeed
from ltm_platform.job.deepspeed_settings import merged
from ltm_platform.training.engine.compiled import compile_network
from ltm_platform.training.engine.ddp import DdpEngine
from ltm_platform.training.engine.device import fuse
from ltm_platform.training.engine.interface import Classifier, Engine

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.optim import Optimizer

    from ltm_platform.job import BatchPlan, JobSpec


_LARGEST_BUCKET = 500_000_000  # gradients, DeepSpeed's default


def deepspeed_config(job: JobSpec, batch: BatchPlan) -> dict[str, Any]:
    """The resolved DeepSpeed configuration of a job, with its own `engine.deepspeed` in it."""
    stage = job.engine.stage_of(batch.workers)
    config: dict[str, Any] = {
        "train_batch_size": batch.global_batch,
        "train_micro_batch_size_per_gpu": batch.micro_batch,
        "gradient_accumulation_steps": batch.accumulation,
        # DeepSpeed clips at 1.0 when the key is left out.
        "gradient_clipping": job.recipe.clip_grad or 0.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**62,
    }
    if stage == 3:
        # Every parameter is a shard, without exception: the moving average relies on it.
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    if job.engine.offload != "none":
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
        config["zero_force_ds_cpu_optimizer"] = False  # torch's own are as fast, see `fuse`
    if job.engine.offload == "all":
        config["zero_optimization"]["offload_param"] = {"device": "cpu"}
    if job.engine.precision in ("bf16", "auto"):  # auto is left open for GPUs alone
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if job.engine.precision == "fp16":
        # Not autocast: with ZeRO its loss scaling neither agrees over ranks nor counts skips.
        config["fp16"] = {"enabled": True, "auto_cast": True, "loss_scale": 0}
    return merged(config, job.engine.deepspeed)


def build_engine(
    model: nn.Module,
    optimizer: Optimizer,
    config: dict[str, Any],
    *,
    device: torch.device,
    compiled: bool = False,
    channels_last: bool = False,
    keeps_tokens: bool = False,
) -> Engine:
    """Wrap ``model`` for data-parallel training, as a `deepspeed_config` says.

    Ray Train has already joined the ranks; the process group is taken as it is.
    """
    classifier = Classifier(model, channels_last=channels_last, keeps_tokens=keeps_tokens)
    if device.type in ("cpu", "cuda"):
        fuse(optimizer)
    engine: Engine
    if config["zero_optimization"]["stage"] == 0:
        engine = DdpEngine(
            classifier,
            optimizer,
            device,
            accumulation=config["gradient_accumulation_steps"],
            clip_grad=config["gradient_clipping"],
            autocast="torch_autocast" in config,
        )
    else:
        engine = _with_zero(classifier, optimizer, config)
    if compiled:
        compile_network(classifier)
    return engine


def _with_zero(classifier: Classifier, optimizer: Optimizer, config: dict[str, Any]) -> Engine:
    import_deepspeed()
    import deepspeed

    # DeepSpeed's own bucket is 2 GB, of which a small network would fill a few percent.
    elements = sum(parameter.numel() for parameter in classifier.parameters())
    zero = config["zero_optimization"]
    zero.setdefault("reduce_bucket_size", min(elements, _LARGEST_BUCKET))
    if deepspeed.get_accelerator().device_name() == "cpu":
        # The copy into one buffer keeps a GPU's memory whole; here it is 2 % of a step.
        zero.setdefault("contiguous_gradients", False)
    engine: Engine
    engine, *_ = deepspeed.initialize(
        model=classifier, optimizer=optimizer, config=config, dist_init_required=False
    )
    return engine
