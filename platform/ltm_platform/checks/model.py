"""The networks of a job: that they exist, can be built, and what they cost."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltm.errors import first_line, quoted
from ltm_platform.checks.batch import norm_notices
from ltm_platform.errors import UserError
from ltm_platform.job import BUDGETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import ltm
    from ltm.methods import Hooks
    from ltm_platform.job import JobSpec

LARGEST_SCALE = 8  # of an image size over the backbone's own


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
    except (RuntimeError, OSError, MemoryError) as error:
        if not job.model.pretrained:
            sentence = f"model: the network cannot be built: {first_line(error)}"
            raise job.error("model", sentence) from error
        key = "model.pretrained"
        raise job.error(
            key,
            f"{key} is true, but there are no published weights to be had: {first_line(error)}",
        ) from None


def _key_of(job: JobSpec, field: str) -> str:
    """The job's field for an argument of the model library."""
    section, _, option = field.partition(".")
    if section == "recipe":
        return field
    if section == "options":
        return f"model.{field}" if option in job.model.options else "model.options"
    for name in ("model", "recipe"):
        if field in type(getattr(job, name)).model_fields:
            return f"{name}.{field}"
    return "model"


def check_size(job: JobSpec) -> tuple[str, ...]:
    """Check the image size against the backbone's own.

    A size that the file of another backbone brought is not taken silently: it is a notice, and
    below half of the backbone's own an error. Returns the notices, also of such a recipe.

    Raises:
        UserError: the size is far from what the backbone is made for.
    """
    from ltm.backbones import own_size

    key, size, own = "model.image_size", job.model.image_size, own_size(job.model.backbone)
    notices = _foreign_recipe(job) + _small_teacher(job, size or own)
    if size is None or own is None:
        return notices
    if size > LARGEST_SCALE * own:
        raise job.error(
            key,
            f"{key} is {size}, but must be at most {LARGEST_SCALE * own}: {LARGEST_SCALE} times "
            f"the {own} pixels of {job.model.backbone}",
        )
    other = _other_backbone(job, key)
    if other is None or size == own:
        return notices
    if 2 * size < own:
        raise job.error(
            key,
            f"{key} is {size}, which is for {other}, but the own size of {job.model.backbone} is "
            f"{own}: write image_size: {size} below model: in the job itself, or "
            f"--set {key}={size}, if that is meant, or null for {own}",
        )
    return (f"{size} px: the backbone's own is {own} ({job.where(key)} is for {other})", *notices)


def _foreign_recipe(job: JobSpec) -> tuple[str, ...]:
    """A notice of the fields of the recipe that the file of another backbone brought."""
    brought: dict[str, list[str]] = {}
    for key in job.given("recipe"):
        other = _other_backbone(job, key)
        if other is not None:
            brought.setdefault(other, []).append(key.removeprefix("recipe."))
    return tuple(f"recipe made for {other}: {', '.join(names)}" for other, names in brought.items())


def _small_teacher(job: JobSpec, size: int | None) -> tuple[str, ...]:
    """A notice of a teacher that has to look at images far smaller than its own."""
    from ltm.backbones import own_size
    from ltm.errors import FieldError

    teacher = job.recipe.distill.teacher
    try:
        own = own_size(teacher) if teacher else None
    except FieldError:  # a folder, or what `check_teacher` refuses
        own = None
    if own is None or size is None or 2 * size >= own:
        return ()
    return (f"the teacher {teacher} sees {size} px: its own is {own}",)


def _other_backbone(job: JobSpec, key: str) -> str | None:
    """The backbone of the file that gave a field, where it is not the job's."""
    other = job.backbone_of(key)
    if other is None or _architecture(other) == _architecture(job.model.backbone):
        return None
    return other


def _architecture(backbone: str) -> str:
    from ltm.backbones import find_backbone
    from ltm.errors import FieldError

    try:
        return find_backbone(backbone)[0].partition(".")[0]
    except FieldError:  # of a file that is corrected by the job that extends it
        return backbone


def check_network(job: JobSpec, num_classes: int = 1000) -> None:
    """Check that the network can be built, without memory for its weights and without those that
    it starts from.

    Raises:
        UserError: it cannot.
    """
    import torch

    from ltm_platform.models import method_of
    from ltm_platform.training.recipe.network import build_network

    bare = job.replace("model.pretrained", False).replace("model.checkpoint", None)
    with _located(job), torch.device("meta"):
        model = build_network(bare, num_classes).model
    _check_method(job, method_of(model))


def check_files(job: JobSpec) -> None:
    """Check that the weights to start from, and those of a teacher, are there.

    Raises:
        UserError: they are not.
    """
    files = {
        "model.checkpoint": job.model.checkpoint,
        "recipe.distill.checkpoint": job.recipe.distill.checkpoint,
    }
    for key, path in files.items():
        if path and not Path(path).expanduser().exists():
            raise job.error(key, f"{key} is {quoted(path)}, which does not exist")


@dataclass(frozen=True, slots=True)
class CheckedNetwork:
    """What is known of a job's network once it was built; the fields are as of `CheckedJob`."""

    cost: ltm.Count
    base_cost: ltm.Count
    plan: Mapping[str, Any]
    kept_tokens: float | None
    notices: tuple[str, ...]


def with_model(job: JobSpec, num_classes: int) -> tuple[JobSpec, CheckedNetwork]:
    """Build the network once to see that it can be, settle its image size and count its MACs."""
    import ltm
    from ltm.interfaces import compressible
    from ltm_platform.models import create_model, input_pixels, method_of
    from ltm_platform.training.recipe.network import build_network

    with _located(job):
        network = build_network(job, num_classes)
        model = network.model
        base = create_model(job, num_classes, method="none")
    _check_method(job, method_of(model))
    if job.model.method == "none":
        for wish in (*BUDGETS, "model.elastic"):
            job = job.replace(wish, None)  # so that no list of runs shows one
    size = input_pixels(model).size
    job = job.replace("model.image_size", size)
    notices = norm_notices(job, model)
    if rival := job.model.options.get("as_fast_as"):
        job = _with_size(job, model.plan)
        notices += (f"model.plan {model.plan} was measured: as fast as {rival} on this machine",)
    if network.new_classifier:
        notices += (f"the classifier starts anew: the data has {num_classes} classes",)
    if method_of(model).scoring_images and not (job.model.pretrained or job.model.checkpoint):
        notices += (
            f"model.method {job.model.method!r} chooses by the weights that it starts from, which "
            f"are random: give model.pretrained or model.checkpoint",
        )
    compression = compressible(model)
    return job, CheckedNetwork(
        cost=ltm.count(ltm.compacted(model), size),
        base_cost=ltm.count(base, size),
        plan=compression.plan,
        kept_tokens=compression.kept_tokens,
        notices=notices,
    )


def _with_size(job: JobSpec, plan: Mapping[str, int]) -> JobSpec:
    """The job with the size of a network in the place of what it was found by."""
    for budget in BUDGETS:
        job = job.replace(budget, None)
    left = {name: x for name, x in job.model.options.items() if name != "as_fast_as"}
    return job.replace("model.options", left).replace("model.plan", dict(plan))


def _check_method(job: JobSpec, method: Hooks) -> None:
    """Check the requirements of a method that removes heads and units, or is made for one plan."""
    name, engine = job.model.method, job.engine
    if method.shaped_by_plan and job.model.elastic is not None:
        key, problem = "model.elastic", "null: its weights are made for one plan"
    elif not method.whole_weights:
        return
    elif engine.zero_stage == 3:
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
        teacher = quoted(job.recipe.distill.teacher)
        raise job.error(key, f"{key} is {teacher}, but {first_line(error)}") from None
