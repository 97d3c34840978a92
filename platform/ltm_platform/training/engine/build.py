"""The DeepSpeed engine around a classifier, at any ZeRO stage, on the device Ray Train gives."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from ltm_platform.compat.deepspeed import import_deepspeed
from ltm_platform.compat.deepspeed_engine import replace_gradient_exchange
from ltm_platform.training.engine.gradient_buckets import GradientExchange, fill_up
from ltm_platform.training.engine.sync_bn import BATCH_NORMS

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch.optim import Optimizer

    from ltm_platform.job import BatchPlan, JobSpec


_LARGEST_BUCKET = 500_000_000  # gradients, DeepSpeed's default


class Classifier(nn.Module):
    """A timm model that returns its pooled feature beside its logits: the IB loss needs both."""

    model: Any
    """A timm model: it has the methods that `forward` calls."""

    def __init__(self, model: nn.Module, *, channels_last: bool = False) -> None:
        super().__init__()
        self.model = model
        self.channels_last = channels_last

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> logits [B, C], feature [B, D]."""
        if self.channels_last:
            # The weights stay as they are, in flat shards; the layout of the images decides.
            images = images.contiguous(memory_format=torch.channels_last)
        tokens = self.model.forward_features(images)
        feature = self.model.forward_head(tokens, pre_logits=True)
        return self.model.get_classifier()(feature), feature

    def train(self, mode: bool = True) -> Self:
        """As torch's, but a batch norm whose weights are frozen keeps its statistics, too."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, BATCH_NORMS) and _frozen(module):
                module.eval()
        return self


def _frozen(module: nn.Module) -> bool:
    own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
    return bool(own) and not any(own)


def deepspeed_config(job: JobSpec, batch: BatchPlan) -> dict[str, Any]:
    """The resolved DeepSpeed configuration of a job; users never write one themselves."""
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
        config["zero_force_ds_cpu_optimizer"] = False  # torch's own are as fast, see `_for_cpu`
    if job.engine.offload == "all":
        config["zero_optimization"]["offload_param"] = {"device": "cpu"}
    if job.engine.precision == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if job.engine.precision == "fp16":
        # Not autocast: with ZeRO its loss scaling neither agrees over ranks nor counts skips.
        config["fp16"] = {"enabled": True, "auto_cast": True, "loss_scale": 0}
    return config


def _for_cpu(optimizer: Optimizer) -> None:
    """Where torch has an update in one pass over the CPU's memory, take that."""
    if isinstance(optimizer, (torch.optim.Adam, torch.optim.SGD)):
        for group in optimizer.param_groups:
            group.update(fused=True, foreach=False)


def build_engine(
    model: nn.Module,
    optimizer: Optimizer,
    config: dict[str, Any],
    *,
    compiled: bool = False,
    channels_last: bool = False,
) -> DeepSpeedEngine:
    """Wrap ``model`` for data-parallel training with ZeRO.

    Ray Train has already joined the ranks, so DeepSpeed takes the process group as it is.
    """
    # DeepSpeed's own bucket is 2 GB, of which a small network would fill a few percent.
    elements = sum(parameter.numel() for parameter in model.parameters())
    config["zero_optimization"]["reduce_bucket_size"] = min(elements, _LARGEST_BUCKET)
    import_deepspeed()
    import deepspeed

    on_cpu = deepspeed.get_accelerator().device_name() == "cpu"
    if on_cpu:
        # The copy into one buffer keeps a GPU's memory whole; here it is 2 % of a step.
        config["zero_optimization"]["contiguous_gradients"] = False
    if on_cpu or "offload_optimizer" in config["zero_optimization"]:
        _for_cpu(optimizer)
    engine, *_ = deepspeed.initialize(
        model=Classifier(model, channels_last=channels_last),
        optimizer=optimizer,
        config=config,
        dist_init_required=False,
    )
    if config["zero_optimization"]["stage"] == 0:
        alone = engine.world_size == 1
        exchange = partial(fill_up, engine.module) if alone else GradientExchange(engine).finish
        replace_gradient_exchange(engine, exchange)
    if compiled:
        engine.compile()
    return engine
