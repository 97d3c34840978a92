"""Measure the accuracy of stored weights, on all workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.errors import UserError
from ltm_platform.storage import locations
from ltm_platform.storage.manifest import EMA_FILE, WEIGHTS_FILE, job_of
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from torch import nn

    import ltm
    from ltm_platform.data import Dataset
    from ltm_platform.job import JobSpec
    from ltm_platform.ray_cluster.resources import Resources

KINDS = {WEIGHTS_FILE: "weights", EMA_FILE: "EMA"}


@dataclass(frozen=True, slots=True)
class Compression:
    """One at which a network is measured."""

    ratio: float | None
    """None is the network's own plan."""
    cost: ltm.Count
    """Of one image."""
    plan: Mapping[str, Any]
    """What every site keeps, or every part."""
    kept_tokens: float | None
    """The fraction that all merges together leave; None where no tokens leave."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is to be measured, checked."""

    checkpoint: Path
    job: JobSpec
    """The job of the checkpoint, with the data of this evaluation."""
    dataset: Dataset
    workers: int
    use_gpu: bool
    compressions: tuple[Compression, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy over the whole validation set."""

    kind: str
    """``weights`` or ``EMA``."""
    ratio: float | None
    gmacs: float
    top1: float
    top5: float
    loss: float
    images: int


@dataclass(frozen=True, slots=True)
class Scores:
    """What an evaluation found."""

    scores: tuple[Score, ...]
    """Sorted by kind of weights, then by ratio."""
    left_out: tuple[str, ...]
    """Images that cannot be decoded and are not counted, a sentence each."""


def prepare(
    checkpoint: Path,
    *,
    data: str | None,
    ratios: Sequence[float],
    workers: int | None,
    resources: Resources,
    method: str | None = None,
    target_gmacs: Sequence[float] = (),
) -> Evaluation:
    """See that the weights in a checkpoint's folder fit the data and the compressions.

    ``target_gmacs``: budgets; each is one more ratio, that which comes closest from below.
    ``method``: put on a network that was trained without one.

    Raises:
        UserError: they do not, or there is no room for the workers.
    """
    from ltm_platform.checks import check_data, with_absolute_paths

    job = job_of(checkpoint)
    if data is not None:
        job = job.replace("data.path", data)
    if method is not None:
        job = _with_method(job, method, checkpoint)
    use_gpu = resources.gpus >= 1
    cpus = job.cluster.cpus_per_worker
    room = int(resources.gpus if use_gpu else resources.cpus // cpus)
    if workers is not None and workers > room:
        raise UserError(f"--workers is {workers}, but there is room for {room} here")
    dataset = check_data(job)
    if job.model.method == "none" and (ratios or target_gmacs):
        raise UserError(f"{checkpoint} is a network without merging: it has one ratio, 1")
    network = _network(job, checkpoint, len(dataset.classes))
    return Evaluation(
        checkpoint=checkpoint,
        job=with_absolute_paths(job),
        dataset=dataset,
        workers=workers or resources.auto_workers(cpus),
        use_gpu=use_gpu,
        compressions=_compressions(network, checkpoint, ratios, target_gmacs),
    )


def _with_method(job: JobSpec, method: str, checkpoint: Path) -> JobSpec:
    import torch

    from ltm.methods import check_method, reduces, untrained_options
    from ltm_platform.models import create_model

    if job.model.method != "none":
        raise UserError(
            f"--method {method}: {locations.shown(checkpoint)} was trained with "
            f"{job.model.method}, but a method is put on a network without one"
        )
    try:
        check_method(method)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    if method != "none" and reduces(method) == "size":
        raise UserError(f"--method {method} is another network, which only training gives weights")
    job = job.replace("model.method", method)
    job = job.replace("model.options", untrained_options(method))
    with torch.device("meta"):
        model = create_model(job, num_classes=2)
    learns = any(name.startswith("method.") for name, _ in model.named_parameters())
    if learns and not model.method.ready_untrained:
        raise UserError(f"--method {method} has weights of its own, which only training gives")
    return job


def _network(job: JobSpec, checkpoint: Path, num_classes: int) -> nn.Module:
    """The checkpoint's, with its weights."""
    from ltm_platform.models import create_model, load_weights

    try:
        model = create_model(job, num_classes)
        load_weights(model, checkpoint)
    except ValueError as error:
        raise UserError(f"{locations.shown(checkpoint)}: {error}") from None
    return model


def _compressions(
    model: nn.Module, checkpoint: Path, ratios: Sequence[float], budgets: Sequence[float]
) -> tuple[Compression, ...]:
    """Those that are asked for, or the network's own, each as the network has it."""
    import ltm
    from ltm.interfaces import compressible
    from ltm_platform.models import input_pixels

    network = compressible(model)
    wishes: list[dict[str, Any]] = [{"to": ratio} for ratio in ratios]
    wishes += [{"gmacs": budget} for budget in budgets]
    found = []
    for wish in wishes or [{}]:
        try:
            if wish:
                network.set_compression(**wish)
        except ValueError as error:
            raise UserError(f"{locations.shown(checkpoint)}: {error}") from None
        cost = ltm.count(ltm.compacted(model), input_pixels(model).size)
        ratio = network.compression if wish else None
        found.append(Compression(ratio, cost, network.plan, network.kept_tokens))
    return tuple(found)


def run_evaluation(evaluation: Evaluation, *, ray_stays: bool = False) -> Scores:
    """Every image once, at every ratio, for the weights and for their moving average.

    Ray must be running. ``ray_stays``: it keeps running when this raises.

    Raises:
        RunError: a rank failed.
    """
    import ray.train

    from ltm_platform.compat.ray_trainer import LeanTrainer
    from ltm_platform.ray_cluster.failures import as_run_error
    from ltm_platform.training.measurement.scoring import ScoringConfig, score_checkpoint

    job = evaluation.job
    config = ScoringConfig(
        job=job.to_dict(),
        cache=str(locations.cache()),
        checkpoint=str(evaluation.checkpoint),
        files=[name for name in KINDS if (evaluation.checkpoint / name).is_file()],
        ratios=[one.ratio for one in evaluation.compressions],
    )
    with temporary_folder("ltm-evaluate-") as storage:
        trainer = LeanTrainer(
            score_checkpoint,
            train_loop_config=dict(config),
            scaling_config=ray.train.ScalingConfig(
                num_workers=evaluation.workers,
                use_gpu=evaluation.use_gpu,
                resources_per_worker={"CPU": job.cluster.cpus_per_worker},
            ),
            run_config=ray.train.RunConfig(name="evaluate", storage_path=str(storage)),
        )
        try:
            with as_run_error():
                found = trainer.fit().return_value
        except KeyboardInterrupt:
            if ray_stays:
                trainer.abort()
            raise
    costs = {one.ratio: one.cost for one in evaluation.compressions}
    scores = (
        Score(KINDS[row["file"]], row["ratio"], costs[row["ratio"]].gmacs, **row["scores"])
        for row in found["rows"]
    )
    return Scores(tuple(scores), tuple(found["left_out"]))
