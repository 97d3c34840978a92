"""The settings of training: optimizer, augmentation, mixing, precision."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ltm.errors import quoted

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec

_LARGEST_IN_POLICY = 100


def check_recipe(job: JobSpec) -> None:
    """Check that timm knows the optimizer and can read the augmentation."""
    from timm.optim import get_optimizer_info, list_optimizers

    from ltm_platform.data.transforms import Augmentation, train_stages
    from ltm_platform.training.recipe.optimization import is_elementwise

    # No gradient of a gradient is taken in training. A class by its name alone is one of a package
    # that timm does not bring.
    infos = {name: get_optimizer_info(name) for name in list_optimizers()}
    foreign = {name: i.opt_class for name, i in infos.items() if isinstance(i.opt_class, str)}
    allowed = [n for n, info in infos.items() if not info.second_order and n not in foreign]
    if job.recipe.optimizer not in allowed:
        package = foreign.get(job.recipe.optimizer, "").partition(".")[0]
        which = f", which needs the package {package}, and is not taken here" if package else ""
        raise job.choice_error("recipe.optimizer", allowed, which)
    if job.engine.zero_stage and not is_elementwise(job.recipe.optimizer):
        key = "recipe.optimizer"
        raise job.error(
            key,
            f"{key} {job.recipe.optimizer!r} looks at whole tensors, which ZeRO cuts in pieces: "
            f"it needs engine.zero_stage=0",
        )
    policy = job.recipe.augment.auto_augment or ""
    try:
        if any(float(number) > _LARGEST_IN_POLICY for number in re.findall(r"\d+", policy)):
            raise ValueError("a number that is no magnitude and no count")
        train_stages(Augmentation(**job.recipe.augment.model_dump()), 32, (0.5,) * 3)
    except Exception:  # whatever timm trips over where it cannot read it
        key = "recipe.augment.auto_augment"
        raise job.error(
            key,
            f"{key} is {quoted(policy)}, but must be timm's notation such as rand-m9-mstd0.5, "
            f"with numbers up to {_LARGEST_IN_POLICY}",
        ) from None
    check_pairs(job)


def check_pairs(job: JobSpec) -> None:
    """Check that every worker has pairs of images to mix."""
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
