"""What runs on every rank: the whole life of a rank in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ltm_platform.events import Event, GaveUp, Sender, StoppedOnRequest
from ltm_platform.job import JobSpec
from ltm_platform.storage import permissions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.events import EpochEnded, EventQueue
    from ltm_platform.storage.run_folder import RunIdentity
    from ltm_platform.training.worker_context import WorkerContext


class WorkerConfig(TypedDict):
    """What the driver decided; a rank decides nothing again."""

    job: dict
    cache: str
    events: EventQueue
    run: RunIdentity


def _silent(_: Event) -> None:
    """Ranks other than 0 have nothing to tell."""


def train_worker(config: WorkerConfig) -> None:
    """Started by Ray Train: train the job to the end."""
    from ltm_platform.compat.ray_train import report_quietly
    from ltm_platform.training.worker_context import RayWorker

    report_quietly()
    # On a cluster Ray's own is inherited.
    permissions.set_umask(config["job"]["cluster"]["group"])
    for _ in train_rank(config, RayWorker(config["run"])):
        pass


def train_rank(config: WorkerConfig, context: WorkerContext) -> Iterator[EpochEnded]:
    """Train the job from its last checkpoint, or from the start, to the end.

    Closing the iterator ends training there, with everything freed.
    """
    # The driver imports this module too, and must not load what only ranks need.
    from ltm_platform.data.processes import start_fork_server

    job = JobSpec.from_dict(config["job"])
    if job.data.loader_workers:
        start_fork_server()  # it imports while this process does

    from ltm_platform.training.step_metrics import Diverged
    from ltm_platform.training.trainer import Stopped, Trainer

    sender = Sender(config["events"])
    send = sender if context.rank == 0 else _silent
    trainer = Trainer(job, context, cache=config["cache"], send=send)
    try:
        trainer.restore()
        yield from trainer.epochs()
        trainer.measure_inference()
    except Diverged as error:
        send(GaveUp(str(error)))
    except Stopped:
        send(StoppedOnRequest())
    finally:
        try:
            trainer.close()
        finally:
            sender.close()
