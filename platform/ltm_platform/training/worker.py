"""What Ray Train starts on every rank: the whole life of a rank in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ltm_platform.events import Event, GaveUp, Sender
from ltm_platform.job import JobSpec

if TYPE_CHECKING:
    from ray.util.queue import Queue


class WorkerConfig(TypedDict):
    """What the driver decided; a rank decides nothing again."""

    job: dict
    cache: str
    events: Queue


def _silent(_: Event) -> None:
    """Ranks other than 0 have nothing to tell."""


def train_worker(config: WorkerConfig) -> None:
    """Train the job from its last checkpoint, or from the start, to the end."""
    # The driver imports this module too, and must not load DeepSpeed.
    import ray.train

    from ltm_platform.data.processes import start_fork_server

    job = JobSpec.from_dict(config["job"])
    if job.data.loader_workers:
        start_fork_server()  # it imports while this process does

    from ltm_platform.training.meter import Diverged
    from ltm_platform.training.trainer import Trainer

    rank = ray.train.get_context().get_world_rank()
    sender = Sender(config["events"])
    send = sender if rank == 0 else _silent
    trainer = Trainer(job, cache=config["cache"], send=send)
    try:
        trainer.restore()
        trainer.train()
        trainer.measure_inference()
    except Diverged as error:
        send(GaveUp(str(error)))
    finally:
        sender.flush()
        trainer.close()
