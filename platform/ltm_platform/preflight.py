"""Everything that can be known to be wrong before a worker is taken."""

from __future__ import annotations

import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform import paths, tracking
from ltm_platform.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import ltm
    from ltm.methods import Hooks
    from ltm_platform.data import Dataset
    from ltm_platform.data.place import Place
    from ltm_platform.job import BatchPlan, JobSpec


SAMPLED_IMAGES = 4  # of each split, from first to last
_PROBE = b"probe"


@dataclass(frozen=True, slots=True)
class Resources:
    """What can be taken: a machine's, or a cluster's with all that its autoscaler may start."""

    cpus: float
    gpus: float
    nodes: tuple[tuple[float, float], ...] = ()
    """CPUs and GPUs of every node; a machine is one."""

    def room(self, cpus_per_worker: float) -> int:
        """How many workers fit, each on one node, with a GPU each where there are any."""
        nodes = self.nodes or ((self.cpus, self.gpus),)
        fits = [(int(cpus // cpus_per_worker), int(gpus)) for cpus, gpus in nodes]
        return sum(min(pair) if self.gpus >= 1 else pair[0] for pair in fits)

    def auto_workers(self, cpus_per_worker: float) -> int:
        """What ``cluster.workers: auto`` means here."""
        if self.gpus >= 1:
            return int(self.gpus)
        return min(2, int(self.cpus // cpus_per_worker)) or 1


@dataclass(frozen=True, slots=True)
class Ready:
    """A job that can start, with all that was decided on the way."""

    job: JobSpec
    """Resolved: absolute paths, a number of workers, a batch that fits the data."""
    batch: BatchPlan
    use_gpu: bool
    dataset: Dataset
    cost: ltm.Count
    base_cost: ltm.Count
    notices: tuple[str, ...]
    problems: tuple[str, ...] = ()
    """Why it should not start, if that was overridden."""


@dataclass(slots=True)
class Overridable:
    """Collects what is wrong where ``force`` overrides it, and raises it where not."""

    force: bool
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            if not self.force:
                raise
            self.problems.append(str(error))


def check(job: JobSpec, resources: Resources, *, force: bool = False) -> Ready:
    """Resolve the job against what there is, its data and the model library.

    The cheap checks come first, so that a mistake is told before anything heavy is imported.
    With ``force`` what may be mended meanwhile is no error, but one of `Ready.problems`.

    Raises:
        UserError: the job cannot run; one sentence says why and what to change.
    """
    check_no_keys(job)
    overridable = Overridable(force)
    with overridable():
        _check_tracking(job)
    with overridable():
        check_storage(job)
    use_gpu = resources.gpus >= 1
    if job.cluster.workers == "auto":
        workers = resources.auto_workers(job.cluster.cpus_per_worker)
        job = job.replace("cluster.workers", workers)
    with overridable():
        _check_workers(job, resources)
    check_names(job)
    dataset = check_data(job)
    _check_cache(job)
    with overridable():
        _check_sample(job, dataset)
    job, notices = _with_fitting_batch(job, dataset)
    _check_recipe(job)
    _check_precision(job, use_gpu=use_gpu)
    if job.engine.offload != "none" and not use_gpu:
        notices += ("engine.offload saves nothing here: without GPUs all is on the CPU",)
    job = with_absolute_paths(job)
    job, cost, base_cost, notes = _with_model(job, len(dataset.classes))
    _check_teacher(job, len(dataset.classes))
    return Ready(
        job=job,
        batch=job.batch(_workers_now(job, resources)),
        use_gpu=use_gpu,
        dataset=dataset,
        cost=cost,
        base_cost=base_cost,
        notices=notices + notes,
        problems=tuple(overridable.problems),
    )


def check_no_keys(job: JobSpec) -> None:
    """The addresses of data and storage hold no password, which logs and dashboards would show.

    Raises:
        UserError: one does; the sentence leaves it out.
    """
    addresses = {"data.path": job.data.path, "cluster.storage": job.cluster.storage}
    for key, address in addresses.items():
        if address and paths.has_password(address):
            # Without the place, which for --set would show it again.
            raise UserError(
                f"{key} is {paths.shown(address)}: a key in it would be kept with every run; leave "
                f"it out and give it to the machines, by instance roles or ~/.aws/credentials"
            )


def check_names(job: JobSpec) -> None:
    """The backbone and the method exist.

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
    """The model library's complaints, which begin with a field's name, as errors of the job."""
    try:
        yield
    except ValueError as error:
        field = str(error).split()[0]
        if field == "option":
            raise job.error("model.options", f"model.options: {error}") from None
        for section in ("model", "recipe"):
            if field in type(getattr(job, section)).model_fields:
                raise job.error(f"{section}.{field}", f"{section}.{error}") from None
        raise job.error("model", f"model: {error}") from None
    except (RuntimeError, OSError) as error:
        if not job.model.pretrained:
            raise
        key = "model.pretrained"
        reason = str(error).splitlines()[0]
        raise job.error(
            key, f"{key} is true, but there are no published weights to be had: {reason}"
        ) from None


def _check_tracking(job: JobSpec) -> None:
    if job.tracking.uri and paths.has_password(job.tracking.uri):
        # Without the place, which for --set would show the password again.
        raise UserError(
            "tracking.uri holds a password, which would be kept with every run: leave it out of "
            f"the job and set {tracking.URI_VARIABLE}"
        )
    try:
        tracking.check_reachable(tracking.tracking_uri(job.tracking.uri))
    except UserError as error:
        raise (job.error("tracking.uri", str(error)) if job.tracking.uri else error) from None


def storage_root(job: JobSpec) -> Place:
    """What holds the runs' checkpoints: a folder here, on a share or in an object store.

    Raises:
        UserError: it is no address.
    """
    from ltm_platform.data.place import place

    return place(job.cluster.storage or paths.runs())


def check_storage(job: JobSpec) -> None:
    """Runs can be kept: a file is written, read back and removed.

    Raises:
        UserError: they cannot.
    """
    key = "cluster.storage"
    try:
        root = storage_root(job)
    except UserError as error:
        raise job.error(key, f"{key}: {error}") from None
    try:
        if root.is_local:
            _probe_folder(Path(root.path))
        else:
            _probe_store(root)
    except OSError as error:
        raise job.error(
            key,
            f"{key} is {str(root)!r}, which cannot be written to: {error.strerror or error}",
        ) from None


def _probe_folder(root: Path) -> None:
    # A run creates the folder; a refused one leaves nothing behind.
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    with tempfile.TemporaryFile(dir=existing) as probe:
        probe.write(_PROBE)
        probe.seek(0)
        _check_read(probe.read())


def _probe_store(root: Place) -> None:
    probe = root / f".probe-{uuid.uuid4().hex}"
    probe.write(_PROBE)
    try:
        _check_read(probe.read())
    finally:
        probe.delete()


def _check_read(content: bytes) -> None:
    if content != _PROBE:
        raise OSError("what is read is not what was written")


def _check_workers(job: JobSpec, resources: Resources) -> None:
    """There will be room for the workers, of a range for the fewest."""
    cpus, (workers, _) = job.cluster.cpus_per_worker, job.cluster.worker_range
    if resources.gpus >= 1 and workers > resources.gpus:
        raise job.error(
            "cluster.workers",
            f"cluster.workers is {workers}, but there are only {resources.gpus:g} GPUs, "
            f"one for a worker",
        )
    largest = max((node[0] for node in resources.nodes), default=resources.cpus)
    if cpus > largest:
        where = " on the largest node" if len(resources.nodes) > 1 else ""
        raise job.error(
            "cluster.cpus_per_worker",
            f"cluster.cpus_per_worker is {cpus:g}, but there are only {largest:g} CPUs{where}",
        )
    room = resources.room(cpus)
    if workers > room:
        where = f", on {len(resources.nodes)} nodes" if len(resources.nodes) > 1 else ""
        raise job.error(
            "cluster.workers",
            f"cluster.workers is {workers} at {cpus:g} CPUs each, "
            f"but there are only {resources.cpus:g} CPUs{where}: take {room} "
            f"workers or fewer, or a smaller cluster.cpus_per_worker",
        )


def _workers_now(job: JobSpec, resources: Resources) -> int:
    """As many workers as the job wants and there is room for."""
    fewest, most = job.cluster.worker_range
    return max(fewest, min(most, resources.room(job.cluster.cpus_per_worker)))


def check_data(job: JobSpec) -> Dataset:
    from ltm_platform.data import open_data

    try:
        return open_data(job.data, cache=paths.cache())
    except UserError as error:
        raise job.error("data.path", f"data.path: {error}") from None


def _check_cache(job: JobSpec) -> None:
    from ltm_platform.data.place import place
    from ltm_platform.data.shards import holds_shards

    key, path = "data.cache", job.data.path
    if job.data.cache and (path == "digits" or not holds_shards(place(path))):
        raise job.error(
            key,
            f"{key} holds copies of shards, but data.path {path!r} has none: leave it out, or "
            f"make shards of a folder of images with 'ltm-platform data import'",
        )


def _check_sample(job: JobSpec, dataset: Dataset) -> None:
    """A few images of each split can be read and decoded."""
    import numpy as np

    from ltm_platform.data.importing.originals import BadImageError
    from ltm_platform.data.importing.work import check_image

    for source in (dataset.train, dataset.val):
        indices = np.unique(np.linspace(0, len(source) - 1, SAMPLED_IMAGES).round().astype(int))
        for index in indices:
            try:
                ((data, _),) = source.read([index])
                check_image(data)
            except (BadImageError, OSError, UserError) as error:
                raise job.error(
                    "data.path", f"data.path: {source.locate(index)} is damaged: {error}"
                ) from None


def _with_fitting_batch(job: JobSpec, dataset: Dataset) -> tuple[JobSpec, tuple[str, ...]]:
    """A training set smaller than one global batch is trained on as one batch, and it is said."""
    workers, images = job.cluster.worker_range[1], len(dataset.train)
    if images >= job.recipe.global_batch:
        return job, ()
    if images < workers:
        raise job.error(
            "cluster.workers",
            f"cluster.workers is {workers}, but the training set has only {images} images",
        )
    unit = workers * (2 if job.recipe.mix.enabled else 1)
    largest = images // unit * unit or workers
    notice = (
        f"recipe.global_batch is {largest} instead of {job.recipe.global_batch}: "
        f"the training set has only {images} images"
    )
    if job.recipe.micro_batch != "auto":
        job = job.replace("recipe.micro_batch", None)
    return job.replace("recipe.global_batch", largest), (notice,)


def _check_recipe(job: JobSpec) -> None:
    """timm knows the optimizer, and can read the augmentation."""
    from timm.optim import get_optimizer_info, list_optimizers

    from ltm_platform.data.transforms import Augment, train_transform
    from ltm_platform.training.recipe import is_elementwise

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
        train_transform(Augment(**job.recipe.augment.model_dump()), 32, (0.5,) * 3, (0.5,) * 3)
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


def _check_precision(job: JobSpec, *, use_gpu: bool) -> None:
    if job.engine.precision == "fp16" and not use_gpu:
        key = "engine.precision"
        raise job.error(key, f"{key} is 'fp16', which needs GPUs: use 'bf16' or 'fp32' here")


def with_absolute_paths(job: JobSpec) -> JobSpec:
    """Workers run in folders of their own, so no relative path may reach them."""
    paths_of = {
        "cluster.storage": job.cluster.storage,
        "data.cache": job.data.cache,
        "model.checkpoint": job.model.checkpoint,
        "recipe.distill.checkpoint": job.recipe.distill.checkpoint,
    }
    if job.data.path != "digits":
        paths_of["data.path"] = job.data.path
    teacher = job.recipe.distill.teacher
    if teacher and Path(teacher).expanduser().is_dir():
        paths_of["recipe.distill.teacher"] = teacher
    for key, path in paths_of.items():
        if path and "://" not in path:
            job = job.replace(key, str(Path(path).expanduser().resolve()))
    return job


def _check_teacher(job: JobSpec, num_classes: int) -> None:
    """The teacher exists, has weights, and knows the classes and the image size."""
    from ltm_platform.models import create_teacher

    if job.recipe.distill.teacher is None:
        return
    try:
        create_teacher(job, num_classes)
    except (ValueError, RuntimeError, OSError) as error:
        key = "recipe.distill.teacher"
        reason = str(error).splitlines()[0]
        raise job.error(key, f"{key} is {job.recipe.distill.teacher!r}, but {reason}") from None


def _with_model(
    job: JobSpec, num_classes: int
) -> tuple[JobSpec, ltm.Count, ltm.Count, tuple[str, ...]]:
    """Build the network once to see that it can be, settle its image size and count its MACs."""
    import ltm
    from ltm_platform.models import create_model, input_pixels, method_of
    from ltm_platform.training.network import build_network

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
    """A method that removes heads and units finds what it needs."""
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


def with_problems(ready: Ready, further: Iterable[str]) -> Ready:
    """The same with more reasons not to start, which were overridden."""
    return replace(ready, problems=ready.problems + tuple(further))
