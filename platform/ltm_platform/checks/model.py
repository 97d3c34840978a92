"""The networks of a job: that they exist, can be built, and what they cost."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import ltm
    from ltm.methods import Hooks
    from ltm_platform.job import JobSpec


def check_names(job: JobSpec) -> None:
    """Check that the backbone and the method exist.

    Raises:
        UserError: the nearest right spelling is given.
    """
    from ltm.backbones import find_backbone
    from ltm.methods import check_method

    with _located(job):
        find_backbone(job.model.backbone)
        check_method(job.model.method)


@contextmanager
def _located(job: JobSpec) -> Iterator[None]:
    """The model library's complaints as errors of the job."""
    from ltm.errors import FieldError, PluginError

    try:
        yield
    except PluginError as error:
        raise UserError(str(error)) from None
    except FieldError as error:
        key = _key_of(job, error.field)
        sentence = error.sentence(key) if key != "model" else f"model: {error}"
        raise job.error(key, sentence) from None
    except ValueError as error:
        raise job.error("model", f"model: {error}") from None
    except (RuntimeError, OSError) as error:
        if not job.model.pretrained:
            raise
        key = "model.pretrained"
        reason = str(error).splitlines()[0]
        raise job.error(
            key, f"{key} is true, but there are no published weights to be had: {reason}"
        ) from None


def _key_of(job: JobSpec, field: str) -> str:
    """The job's field for an argument of the model library."""
    section, _, option = field.partition(".")
    if section == "options":
        return f"model.{field}" if option in job.model.options else "model.options"
    for name in ("model", "recipe"):
        if field in type(getattr(job, name)).model_fields:
            return f"{name}.{field}"
    return "model"


def with_model(
    job: JobSpec, num_classes: int
) -> tuple[JobSpec, ltm.Count, ltm.Count, tuple[str, ...]]:
    """Build the network once to see that it can be, settle its image size and count its MACs."""
    import ltm
    from ltm_platform.models import create_model, input_pixels, method_of
    from ltm_platform.training.recipe.network import build_network

    with _located(job):
        network = build_network(job, num_classes)
        model = network.model
        base = create_model(job, num_classes, method="none")
    _check_method(job, method_of(model))
    if job.model.method == "none":
        for wish in ("compression_ratio", "plan", "target_gmacs", "elastic"):
            job = job.replace(f"model.{wish}", None)  # so that no list of runs shows one
    size = input_pixels(model).size
    job = job.replace("model.image_size", size)
    notices: tuple[str, ...] = ()
    if network.new_classifier:
        notices = (f"the classifier starts anew: the data has {num_classes} classes",)
    if method_of(model).scoring_images and not (job.model.pretrained or job.model.checkpoint):
        notices += (
            f"model.method {job.model.method!r} chooses by the weights that it starts from, which "
            f"are random: give model.pretrained or model.checkpoint",
        )
    return job, ltm.count(ltm.compacted(model), size), ltm.count(base, size), notices


def _check_method(job: JobSpec, method: Hooks) -> None:
    """Check the requirements of a method that removes heads and units."""
    if not method.whole_weights:
        return
    name, engine = job.model.method, job.engine
    if engine.zero_stage == 3:
        key, problem = "engine.zero_stage", "from 0 to 2: at 3 weights lie in slices"
    elif engine.compile:
        key, problem = "engine.compile", "false: what it computes changes in training"
    elif engine.precision == "fp16":
        key, problem = "engine.precision", "bf16 or fp32: sums of gradients overflow in fp16"
    elif job.model.elastic is not None:
        key, problem = "model.elastic", "null: heads and units leave for good"
    else:
        return
    raise job.error(key, f"model.method {name!r} needs {key} {problem}")


def check_teacher(job: JobSpec, num_classes: int) -> None:
    """Check that the teacher exists, has weights, and fits the classes and the image size."""
    from ltm_platform.models import create_teacher

    if job.recipe.distill.teacher is None:
        return
    try:
        create_teacher(job, num_classes)
    except (ValueError, RuntimeError, OSError) as error:
        key = "recipe.distill.teacher"
        reason = str(error).splitlines()[0]
        raise job.error(key, f"{key} is {job.recipe.distill.teacher!r}, but {reason}") from None
