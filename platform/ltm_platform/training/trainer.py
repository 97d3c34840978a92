"""The life of a rank: built once, then epochs of steps, validation and a checkpoint."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ltm_platform.events import Decided, EpochEnded, Listener, Measured, Started
from ltm_platform.models import create_model, input_pixels, structure_cost, with_weights
from ltm_platform.training import checkpoint
from ltm_platform.training.checkpoint_policy import CheckpointPolicy
from ltm_platform.training.components import build_components, seed_everything
from ltm_platform.training.engine.optimizer_state import optimizer_is_finite
from ltm_platform.training.engine.weights import (
    average_buffers,
    gather_weights,
    weights_are_finite,
)
from ltm_platform.training.left_out import LeftOut
from ltm_platform.training.measurement.bench import inference_speed
from ltm_platform.training.measurement.stage_report import StageReport
from ltm_platform.training.profiling import StepProfiler
from ltm_platform.training.recipe import method_hooks
from ltm_platform.training.recipe.early_stop import EarlyStop
from ltm_platform.training.step_metrics import Diverged, StepMeter
from ltm_platform.training.stepping import Stepper
from ltm_platform.training.validation import Validation
from ltm_platform.training.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ltm_platform.data.loader import TrainingBatch
    from ltm_platform.job import JobSpec
    from ltm_platform.training.worker_context import WorkerContext


class Stopped(Exception):  # noqa: N818 - an outcome of training, not a mistake in it
    """Training was asked to end, and has saved. Raised at the same step on all ranks."""


class Trainer:
    """One rank's training.

    Every public method is collective: all ranks call it, the same number of times.

    components: what is trained with.
    """

    def __init__(self, job: JobSpec, context: WorkerContext, *, cache: str, send: Listener) -> None:
        self.job, self._context, self._send = job, context, send
        self._watchdog = Watchdog(job.cluster.hang_timeout_s)
        with ExitStack() as on_error:
            on_error.callback(self._watchdog.close)
            self.components = build_components(job, context, cache=Path(cache), send=send)
            self._batch, self._engine = self.components.batch, self.components.engine
            self._train_loader = self.components.train_loader
            self._meter = StepMeter(send, self._batch.global_batch, self.components.objective.parts)
            self._stepper = Stepper(job, self.components, self._meter)
            self._stages = StageReport(
                job.data,
                self._stepper.clock,
                send,
                images=self._batch.global_batch // self._batch.workers,
                loader_workers=self._train_loader.workers,
                ranks_here=context.local_world_size,
                device=self._engine.device,
            )
            parts = [self._train_loader.bad, self.components.val_loader.bad]
            self._left_out = LeftOut(parts, send)
            self._validate = Validation(self.components, self._watchdog)
            profiles = job.tracking.profile and context.rank == 0
            self._profiler = StepProfiler(send, self._engine.device) if profiles else None
            self._policy = CheckpointPolicy(job.checkpoint.every_steps, context)
            self._early_stop = EarlyStop(job.recipe.early_stop)
            # From here on the RNG states (dropout, drop path) differ between ranks.
            seed_everything(job.recipe.seed + context.rank)
            on_error.pop_all()

    @property
    def steps_done(self) -> int:
        """Optimizer steps since the start of training, before this rank's life too."""
        return self._stepper.steps_done

    def restore(self) -> None:
        """Take up the run's last checkpoint; if there is none, let the method look at the data."""
        history = "[]"
        with self._context.last_checkpoint() as stored:
            if stored:
                self._stepper.steps_done, history = checkpoint.restore(stored, self._state())
        if not stored:
            batches = self._train_loader.epoch(0)
            method_hooks.scoring_pass(
                self._engine, self._watchdog.watched(batches), self.components.to_network
            )
        method_hooks.before_training(self._engine)
        epochs = self.job.recipe.epochs
        started = Started(
            epochs=epochs,
            epochs_done=self._train_loader.epochs(self.steps_done),
            steps=self._train_loader.steps(epochs),
            steps_done=self.steps_done,
            device=str(self._engine.device),
            workers=self._engine.world_size,
        )
        self._send(started)
        self._meter.replay(history)

    def epochs(self) -> Iterator[EpochEnded]:
        """Train all epochs that are left, the first of them perhaps in part.

        Raises:
            Diverged: on all ranks, when the loss, a gradient or a weight is not finite.
            Stopped: on all ranks, when somebody asked for it.
        """
        epochs = self.job.recipe.epochs
        done = self._train_loader.epochs(self.steps_done)
        batches = self._train_loader.epoch(done, self.steps_done - self._train_loader.steps(done))
        for epoch in range(done, epochs):
            start, first_step = time.perf_counter(), self.steps_done
            self._train_epoch(epoch, batches)
            seconds = time.perf_counter() - start
            stages = self._stages.epoch_ended()
            images = (self.steps_done - first_step) * self._batch.global_batch
            last = epoch + 1 == epochs
            if not last:
                batches = self._train_loader.epoch(epoch + 1)  # decoded meanwhile
            start = time.perf_counter()
            validated, confusion = self._validate()
            validated["time/validation_s"] = time.perf_counter() - start
            self._left_out.exchange()
            metrics = {"train/images_per_s": images / seconds} | stages | validated
            metrics |= self._skipped_steps() | self._stepper.ib_gradient_ratio()
            self._early_stop.update(metrics["val/top1"])
            ended = EpochEnded(self.steps_done, epoch, metrics)
            self._meter.tell(ended)
            self._save(metrics, confusion)
            yield ended
            if not last and self._context.stop_is_requested():
                raise Stopped
            if self._early_stop.due:
                self._send(self._stopped_early(epoch))
                break

    def _train_epoch(self, epoch: int, batches: Iterator[TrainingBatch]) -> None:
        end = self._train_loader.steps(epoch + 1)
        for _ in self._stepper.epoch(epoch, self._watchdog.watched(batches)):
            if self._profiler:
                self._profiler.step()
            self._stages.within_epoch(self.steps_done, epoch)
            if self.steps_done == end:
                continue  # the epoch's own checkpoint comes after validation
            if self._policy.is_due(self.steps_done):
                average_buffers(self._engine, self.components.ema)
                self._save({})
                self._meter.restart_clock()
                if self._policy.stopping:
                    raise Stopped

    def _save(self, metrics: dict[str, float], confusion: Tensor | None = None) -> None:
        """Store what is fit to go on from, and nothing else. Buffers are averaged before."""
        self._meter.check()
        if not weights_are_finite(self._engine):
            raise Diverged(f"a weight is not finite after step {self.steps_done}")
        if not optimizer_is_finite(self._engine):
            raise Diverged(f"the optimizer's state is not finite after step {self.steps_done}")
        self._watchdog.alive()
        self._meter.send_rest()
        self.components.bottleneck.note_seeded()  # as a run does that goes on from here
        history = self._meter.history()
        taken = checkpoint.snapshot(self.job, self._state(), self.steps_done, history, confusion)
        self._context.keep(taken, metrics)

    def _state(self) -> checkpoint.State:
        its = self.components
        return checkpoint.State(its.engine, its.ema, its.bottleneck, self._early_stop)

    def _skipped_steps(self) -> dict[str, float]:
        """Steps since the start of training that overflowed in fp16 and changed nothing."""
        if self.job.engine.precision != "fp16":
            return {}
        return {"train/skipped_steps": float(self._engine.skipped_steps)}

    def _stopped_early(self, epoch: int) -> Decided:
        best, since = self._early_stop.best, self._early_stop.epochs_since
        sentence = (
            f"recipe.early_stop: training ends after epoch {epoch + 1}, "
            f"since the best val/top1, {best:.2f} %, is that of epoch {epoch + 1 - since}"
        )
        return Decided("stopped_after_epoch", str(epoch + 1), sentence)

    def measure_inference(self) -> None:
        """Rank 0 times the finished network, whole and unsharded."""
        self._watchdog.alive()
        weights = gather_weights(self._engine)
        if self._engine.global_rank == 0:
            model = create_model(self.job, self.components.num_classes)
            model = with_weights(model, weights)
            size = input_pixels(model).size
            speed = inference_speed(model, size, self._engine.device)
            metrics = {f"bench/{k}": v for k, v in speed.items()} | structure_cost(model, size)
            self._send(Measured(self.steps_done, self.job.recipe.epochs - 1, metrics))

    def close(self) -> None:
        self._watchdog.close()
        if self._profiler:
            self._profiler.close()
        self._train_loader.close()
        self.components.val_loader.close()
