"""The networks that a job file describes: the one that is trained, and its teacher."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm.data import resolve_model_data_config
from torch import nn

import ltm
from ltm.checkpoints import CONFIG, load_checkpoint
from ltm.errors import FieldError, first_line
from ltm.flops import image_size_of
from ltm.interfaces import compressible
from ltm.methods import Hooks, check_options
from ltm_platform.errors import UserError, nearest
from ltm_platform.interrupts import interrupts_held
from ltm_platform.job import ITSELF, JobSpec
from ltm_platform.storage.manifest import JOB_FILE, WEIGHTS_FILE, check_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_NO_METHOD = Hooks()

_log = logging.getLogger(__name__)


def create_model(job: JobSpec, num_classes: int, *, method: str | None = None) -> Any:
    """Build the job's network, a timm model, as it is before `load_start`.

    ``method`` replaces the job's: ``none`` gives its base model.

    Raises:
        ValueError: the backbone, the method or a size does not fit.
    """
    spec = job.model
    chosen = method or spec.method
    merging: dict[str, Any] = {}
    if chosen != "none":
        check_options(chosen, spec.options)  # those of timm's networks are no part of a job
        merging = {
            "compression_ratio": spec.compression_ratio,
            "plan": spec.plan,
            "target_gmacs": spec.target_gmacs,
            **spec.options,
        }
    return ltm.create_model(
        spec.backbone,
        method=chosen,
        num_classes=num_classes,
        image_size=spec.image_size,
        pretrained=spec.pretrained,
        drop_path=spec.drop_path,
        **merging,
    )


def outcome(model: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, C] and pooled feature [B, D] of what `forward_features` gives."""
    feature: Tensor = model.forward_head(tokens, pre_logits=True)
    classifier = model.get_classifier()
    # A distilled DeiT has two, each for a token of its own.
    one = isinstance(classifier, nn.Module)
    return classifier(feature) if one else model.forward_head(tokens), feature


def load_start(model: nn.Module, job: JobSpec) -> bool:
    """Give a new network the weights of ``model.checkpoint``, if the job names one.

    Returns whether the classifier is initialised again, since it is for another number of classes.

    Raises:
        ValueError: there are no such weights, or they are of another network.
    """
    if job.model.checkpoint is None:
        return False
    new_classifier = _load(model, Path(job.model.checkpoint), new_classifier=True)
    compressible(model).before_finetuning()
    return new_classifier


def with_weights(model: Any, weights: Mapping[str, Tensor]) -> Any:
    """The job's network with the state dict of a trained one, as it is used from then on."""
    compressible(model).before_load(weights)
    model.load_state_dict(weights)
    return ltm.compacted(model)


def structure_cost(model: Any, image_size: int) -> dict[str, float]:
    """Metrics of a network whose cost training alone knows; none of any other."""
    if not compressible(model).cost_is_learned:
        return {}
    cost = ltm.count(model, image_size)
    return {
        "model/gmacs": cost.gmacs,
        "model/gmacs_no_attention_matmul": cost.gmacs_no_attention_matmul,
        "model/params_m": cost.params_m,
    }


def load_weights(model: nn.Module, path: Path) -> None:
    """All the weights of a file, or of a checkpoint's folder, into their own network.

    Raises:
        ValueError: there are no such weights, or they are of another network or other classes.
    """
    if _load(model, path, new_classifier=True):
        problem = f"is {str(path)!r}, whose classifier is not for the data's number of classes"
        raise FieldError("checkpoint", str(path), problem=problem)


def freeze(model: nn.Module, patterns: list[str]) -> None:
    """No gradient for the parameters that ``patterns`` name: themselves, or what they are part of.

    Raises:
        ValueError: a pattern names nothing, or nothing is left to train.
    """
    parameters = dict(model.named_parameters())
    for pattern in patterns:
        named = [name for name in parameters if any(fnmatchcase(n, pattern) for n in _outer(name))]
        if not named:
            known = {part for name in parameters for part in _outer(name)}
            children = ", ".join(name for name, _ in model.named_children())
            problem = (
                f"holds {pattern!r}, which is no part of the network"
                f"{nearest(pattern, known)} (its largest parts: {children})"
            )
            raise FieldError("freeze", patterns, problem=problem)
        for name in named:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        problem = f"is {', '.join(patterns)}, which leaves nothing to train"
        raise FieldError("freeze", patterns, problem=problem)


def method_of(model: Any) -> Hooks:
    """The hooks of the network's method in training; those of a network without one do nothing."""
    method: Hooks = getattr(model, "method", _NO_METHOD)
    return method


def freeze_backbone(model: Any) -> None:
    """The method learns alone: no gradient for the rest of the network."""
    for name, parameter in model.named_parameters():
        if not name.startswith("method."):
            parameter.requires_grad_(False)


def _outer(name: str) -> list[str]:
    """``blocks.0.norm.weight`` -> blocks, blocks.0, blocks.0.norm, and itself."""
    parts = name.split(".")
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]


def create_teacher(job: JobSpec, num_classes: int) -> Any:
    """The network that ``recipe.distill`` names, with its weights, for the job's image size.

    Raises:
        ValueError: there is no such network, or its weights do not fit it or the data.
    """
    spec = job.recipe.distill
    assert spec.teacher
    if spec.teacher == ITSELF:
        return _as_it_starts(job, num_classes)
    folder = Path(spec.teacher)
    if folder.is_dir():
        teacher = _job_of(folder).replace("model.image_size", job.model.image_size)
        model = create_model(teacher.replace("model.pretrained", False), num_classes)
        _load(model, folder)
        return model
    model = ltm.create_model(
        spec.teacher,
        method="none",
        num_classes=num_classes,
        image_size=job.model.image_size,
        pretrained=spec.checkpoint is None,
    )
    if spec.checkpoint:
        _load(model, Path(spec.checkpoint))
    return model


def _as_it_starts(job: JobSpec, num_classes: int) -> Any:
    """The job's network without its method, with the weights that it starts from."""
    if not (job.model.pretrained or job.model.checkpoint):
        problem = "is the network as it starts, whose weights are random"
        raise FieldError("teacher", ITSELF, "with model.pretrained or model.checkpoint", problem)
    model = create_model(job, num_classes, method="none")
    known = num_classes if job.model.checkpoint else model.pretrained_cfg.get("num_classes")
    if load_start(model, job) or known != num_classes:
        problem = f"is the network as it starts, whose classifier is not for {num_classes} classes"
        raise FieldError("teacher", ITSELF, "one that was trained for them", problem)
    return model


def _job_of(checkpoint: Path) -> JobSpec:
    path = checkpoint / JOB_FILE
    if not path.is_file():
        problem = f"is the folder {str(checkpoint)!r}, which holds no {JOB_FILE}"
        raise FieldError("checkpoint", str(checkpoint), problem=problem)
    _checked_weights(checkpoint)
    return JobSpec.load_stored(path)


def _load(model: nn.Module, path: Path, *, new_classifier: bool = False) -> bool:
    if path.is_dir():
        path = _checked_weights(path)
    try:
        with interrupts_held():  # safetensors makes an error of its own of one
            return load_checkpoint(model, path, new_classifier=new_classifier)
    except ValueError:
        raise
    except Exception as error:  # whatever a foreign file makes its reader raise
        reason = first_line(error)
        problem = f"is {str(path)!r}, which cannot be read as weights: {reason}"
        raise FieldError("checkpoint", str(path), problem=problem) from None


def _checked_weights(folder: Path) -> Path:
    """The weights in a checkpoint's folder, unchanged since they were written."""
    if (folder / CONFIG).is_file() and not (folder / WEIGHTS_FILE).is_file():
        return folder
    if (folder / WEIGHTS_FILE).is_file():
        try:
            unchecked = check_weights(folder, only=(WEIGHTS_FILE, JOB_FILE))
        except UserError as error:
            raise FieldError(
                "checkpoint", str(folder), problem=f"cannot be used: {error}"
            ) from None
        if unchecked and (folder / CONFIG).is_file():
            return folder  # as timm and Hugging Face have them
        if unchecked:
            _log.warning("%s", unchecked)
    return folder / WEIGHTS_FILE


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
