"""DeepSpeed's settings for which a job has no field of its own, and those for which it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FIELD_OF: Mapping[str, str] = {
    "train_batch_size": "recipe.global_batch",
    "train_micro_batch_size_per_gpu": "recipe.micro_batch",
    "gradient_accumulation_steps": "recipe.micro_batch",
    "gradient_clipping": "recipe.clip_grad",
    "optimizer": "recipe.optimizer",
    "scheduler": "recipe.lr",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer.device": "engine.offload",
    "zero_optimization.offload_param.device": "engine.offload",
    "zero_optimization.cpu_offload": "engine.offload",
    "zero_optimization.cpu_offload_params": "engine.offload",
    # the moving average needs every weight in slices
    "zero_optimization.stage3_param_persistence_threshold": "recipe.ema_decay",
    "fp16.enabled": "engine.precision",
    "fp16.auto_cast": "engine.precision",
    "bf16": "engine.precision",
    "bfloat16": "engine.precision",
    "amp": "engine.precision",
    "torch_autocast": "engine.precision",
    "activation_checkpointing": "engine.grad_checkpointing",
    "compile": "engine.compile",
    "elasticity": "cluster.workers",
}
"""By DeepSpeed's key, with dots for what lies in a section: the field of a job that decides it."""


def taken(settings: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first setting that a field of the job decides, as DeepSpeed's key, and that field."""
    for key, value in _walk(settings):
        for owned, field in FIELD_OF.items():
            inside = f"{key}.".startswith(f"{owned}.")
            around = owned.startswith(f"{key}.") and not isinstance(value, dict)
            if inside or around:
                return key, field
    return None


def merged(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the settings in it, section by section."""
    result = dict(config)
    for key, value in settings.items():
        ours = result.get(key)
        if isinstance(ours, dict) and isinstance(value, dict):
            result[key] = merged(ours, value)
        else:
            result[key] = value
    return result


def _walk(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Sections and values, with their keys joined by dots."""
    for key, value in settings.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{key}.")
