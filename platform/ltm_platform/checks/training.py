"""The settings of training: optimizer, augmentation, mixing, precision."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ltm.errors import quoted
from ltm_platform.errors import nearest
from ltm_platform.job.shorten import EPOCHS, FROZEN, WARMUP

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


def warmup_notices(job: JobSpec) -> tuple[str, ...]:
    """A notice of a warm-up, or of a backbone's standing still, that was cut with the epochs."""
    recipe = job.recipe
    lasts = {WARMUP: recipe.warmup_epochs, FROZEN: recipe.backbone.frozen_epochs}
    return tuple(
        f"{phase} is {now:g} instead of {was:g}: {EPOCHS} is {recipe.epochs}"
        for phase, now in lasts.items()
        if (was := job.shortened(phase)) is not None
    )


def check_deepspeed(job: JobSpec) -> None:
    """Ask DeepSpeed about settings of its own, where the job has some."""
    if not job.engine.deepspeed:
        return
    from ltm_platform.compat.deepspeed import config_problem
    from ltm_platform.training.engine.build import deepspeed_config

    config = deepspeed_config(job, job.batch(job.cluster.worker_range[0]))
    del config["train_batch_size"]  # of all workers: here there is one
    problem = config_problem(config)
    if problem:
        key, why, known = problem
        named = f"has {key}, but {key} {why}" if key else f"is not what DeepSpeed takes: {why}"
        hint = nearest(key, known) if known else ""
        raise job.error("engine.deepspeed", f"engine.deepspeed {named}{hint}")


def for_device(job: JobSpec, *, use_gpu: bool) -> JobSpec:
    """The job with what it leaves to the device, where that is known to be a CPU.

    Of GPUs workers alone know what they have.
    """
    if use_gpu:
        return job
    if job.engine.precision == "auto":
        job = job.replace("engine.precision", "fp32")
    if job.engine.channels_last == "auto":
        job = job.replace("engine.channels_last", False)
    return job


def check_precision(job: JobSpec, *, use_gpu: bool) -> None:
    if job.engine.precision == "fp16" and not use_gpu:
        key = "engine.precision"
        raise job.error(key, f"{key} is 'fp16', which needs GPUs: use 'bf16' or 'fp32' here")
