"""The model that a job file describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timm.data import resolve_model_data_config

import ltm

if TYPE_CHECKING:
    from torch import nn

    from ltm_platform.job import JobSpec


def create_model(job: JobSpec, num_classes: int, *, method: str | None = None) -> Any:
    """Build the job's network, a timm model.

    ``method`` replaces the job's: ``none`` gives its base model.

    Raises:
        ValueError: the backbone, the method or a size does not fit.
    """
    spec = job.model
    chosen = method or spec.method
    return ltm.create_model(
        spec.backbone,
        method=chosen,
        compression_ratio=None if chosen == "none" else spec.compression_ratio,
        num_classes=num_classes,
        image_size=spec.image_size,
        pretrained=spec.pretrained,
        drop_path=spec.drop_path,
        **({} if chosen == "none" else spec.options),
    )


@dataclass(frozen=True, slots=True)
class Pixels:
    """The input that a model expects: square images, normalised by channel."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def input_pixels(model: nn.Module) -> Pixels:
    """What timm records about the model's input."""
    config = resolve_model_data_config(model)
    return Pixels(config["input_size"][-1], config["mean"], config["std"])
