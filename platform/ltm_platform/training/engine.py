"""The DeepSpeed engine around a classifier, at any ZeRO stage, on the device Ray Train gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import deepspeed
from torch import Tensor, nn

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine
    from torch.optim import Optimizer

    from ltm_platform.job import BatchPlan, JobSpec


class Classifier(nn.Module):
    """A timm model that returns its pooled feature beside its logits: the IB loss needs both."""

    model: Any
    """A timm model: it has the methods that `forward` calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B, 3, H, W] -> logits [B, C], feature [B, D]."""
        tokens = self.model.forward_features(images)
        feature = self.model.forward_head(tokens, pre_logits=True)
        return self.model.get_classifier()(feature), feature


def deepspeed_config(job: JobSpec, batch: BatchPlan) -> dict[str, Any]:
    """The resolved DeepSpeed configuration of a job; users never write one themselves."""
    config: dict[str, Any] = {
        "train_batch_size": batch.global_batch,
        "train_micro_batch_size_per_gpu": batch.micro_batch,
        "gradient_accumulation_steps": batch.accumulation,
        # DeepSpeed clips at 1.0 when the key is left out.
        "gradient_clipping": job.recipe.clip_grad or 0.0,
        "zero_optimization": {"stage": job.engine.zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**62,
    }
    if job.engine.zero_stage == 3:
        # Every parameter is a shard, without exception: the moving average relies on it.
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    if job.engine.precision == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return config


def build_engine(model: nn.Module, optimizer: Optimizer, config: dict[str, Any]) -> DeepSpeedEngine:
    """Wrap ``model`` for data-parallel training with ZeRO.

    Ray Train has already joined the ranks, so DeepSpeed takes the process group as it is.
    """
    engine, *_ = deepspeed.initialize(
        model=Classifier(model),
        optimizer=optimizer,
        config=config,
        dist_init_required=False,
    )
    return engine
