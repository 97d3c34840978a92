"""The model that a job file describes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from timm.data import resolve_model_data_config
from torch import nn

import ltm
from ltm.flops import image_size_of

if TYPE_CHECKING:
    from ltm_platform.job import JobSpec


def create_model(job: JobSpec, num_classes: int, *, method: str | None = None) -> Any:
    """Build the job's network, a timm model.

    ``method`` replaces the job's: ``none`` gives its base model.

    Raises:
        ValueError: the backbone, the method or a size does not fit.
    """
    spec = job.model
    chosen = method or spec.method
    merging: dict[str, Any] = {}
    if chosen != "none":
        merging = {
            "compression_ratio": spec.compression_ratio,
            "plan": spec.plan,
            "target_gmacs": spec.target_gmacs,
            **spec.options,
        }
    model: Any = ltm.create_model(
        spec.backbone,
        method=chosen,
        num_classes=num_classes,
        image_size=spec.image_size,
        pretrained=spec.pretrained,
        drop_path=spec.drop_path,
        **merging,
    )
    if not isinstance(model.get_classifier(), nn.Module):
        raise ValueError(f"backbone is {spec.backbone!r}, which has more than one classifier")
    return model


@dataclass(frozen=True, slots=True)
class Pixels:
    """The input that a model expects: square images, normalised by channel."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def input_pixels(model: nn.Module) -> Pixels:
    """The size that the model was built for, and timm's record of its mean and deviation."""
    config = resolve_model_data_config(model)
    return Pixels(image_size_of(model)[0], config["mean"], config["std"])
