"""The settings of training: optimizer, augmentation, mixing, precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec


def check_recipe(job: JobSpec) -> None:
    """Check that timm knows the optimizer and can read the augmentation."""
    from timm.optim import get_optimizer_info, list_optimizers

    from ltm_platform.data.transforms import Augmentation, train_transform
    from ltm_platform.training.recipe.optimization import is_elementwise

    # No gradient of a gradient is taken in training.
    allowed = [name for name in list_optimizers() if not get_optimizer_info(name).second_order]
    if job.recipe.optimizer not in allowed:
        raise job.choice_error("recipe.optimizer", allowed)
    if job.engine.zero_stage and not is_elementwise(job.recipe.optimizer):
        key = "recipe.optimizer"
        raise job.error(
            key,
            f"{key} {job.recipe.optimizer!r} looks at whole tensors, which ZeRO cuts in pieces: "
            f"it needs engine.zero_stage=0",
        )
    try:
        train_transform(Augmentation(**job.recipe.augment.model_dump()), 32, (0.5,) * 3, (0.5,) * 3)
    except (AssertionError, ValueError):  # how timm refuses what it cannot read
        key = "recipe.augment.auto_augment"
        value = job.recipe.augment.auto_augment
        raise job.error(
            key, f"{key} is {value!r}, but must be timm's notation such as rand-m9-mstd0.5"
        ) from None
    micro_batch = job.batch(job.cluster.worker_range[1]).micro_batch
    if job.recipe.mix.enabled and micro_batch % 2:
        key = "recipe.micro_batch" if job.recipe.micro_batch else "recipe.global_batch"
        raise job.error(
            key, f"recipe.mix mixes pairs of images, but each worker takes {micro_batch} at a time"
        )


def check_precision(job: JobSpec, *, use_gpu: bool) -> None:
    if job.engine.precision == "fp16" and not use_gpu:
        key = "engine.precision"
        raise job.error(key, f"{key} is 'fp16', which needs GPUs: use 'bf16' or 'fp32' here")
