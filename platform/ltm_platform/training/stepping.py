"""Optimizer steps: forward, what ranks tell each other, backward, and the update."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import ltm
from ltm_platform.compat.deepspeed_engine import clear_gradients
from ltm_platform.training.recipe import method_hooks
from ltm_platform.training.step_metrics import Diverged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from ltm_platform.data.loader import TrainingBatch
    from ltm_platform.job import JobSpec
    from ltm_platform.training.components import Components
    from ltm_platform.training.step_metrics import StepMeter


class Stepper:
    """Trains on micro-batches, `accumulation` of them an optimizer step.

    steps_done: optimizer steps since the start of training.
    """

    def __init__(self, job: JobSpec, components: Components, meter: StepMeter) -> None:
        self._job, self._components, self._meter = job, components, meter
        self._engine = components.engine
        self._model = components.engine.module.model
        self._steps = components.train_loader.steps(job.recipe.epochs)
        self._plan = self._model.plan if job.model.elastic else None
        self.steps_done = 0

    def epoch(self, epoch: int, batches: Iterable[TrainingBatch]) -> Iterator[None]:
        """Train on what is left of an epoch; yields after every optimizer step. Collective.

        batches: micro-batches of this rank, beginning with a step's first.

        Raises:
            Diverged: on all ranks, when the loss or the gradient is not finite.
        """
        its = self._components
        end = its.train_loader.steps(epoch + 1)
        parts = self._new_parts()
        self._engine.module.train()
        self._compress()
        self._meter.restart_clock()
        for index, batch in enumerate(batches, start=1):
            its.schedule.step_update(self.steps_done)
            loss, micro_parts = self._loss(batch, epoch)
            parts += micro_parts / its.batch.accumulation
            complete = index % its.batch.accumulation == 0
            if complete:  # what ranks tell each other travels while backward computes
                its.bottleneck.share()
                self._meter.share(parts)
            self._engine.backward(loss)
            self._engine.step()
            if not complete:
                continue
            clear_gradients(self._engine)
            self.steps_done += 1
            method_hooks.after_step(self._engine, self.steps_done, self._steps)
            self._compress()
            its.bottleneck.sync()
            if its.ema:
                its.ema.update()
            lr, ends_epoch = max(self._engine.get_lr()), self.steps_done == end
            self._meter.step(self.steps_done, epoch, lr, ends_epoch=ends_epoch)
            self._check_gradient(parts)
            parts = self._new_parts()
            yield
        self._meter.check()
        self._meter.send_rest()
        if self._plan is not None:
            self._model.set_compression(self._plan)

    def _compress(self) -> None:
        """Elastic training: every step has a ratio of its own, the same on all ranks."""
        elastic = self._job.model.elastic
        if elastic:
            ratio = ltm.elastic_ratio(elastic, self.steps_done, self._job.recipe.seed)
            self._model.set_compression(ratio)

    def _new_parts(self) -> Tensor:
        return torch.zeros(len(self._components.objective.parts), device=self._engine.device)

    def _loss(self, batch: TrainingBatch, epoch: int) -> tuple[Tensor, Tensor]:
        """The loss of one micro-batch, and its parts as `Objective` gives them."""
        its, device = self._components, self._engine.device
        images, labels = batch.images.to(device), batch.labels.to(device)
        images = its.to_network(images, batch.changes)
        images, labels = its.mixer(images, labels, self.steps_done, epoch)
        logits, features = self._engine(images)
        return its.objective(images, labels, logits, features, epoch)

    def _check_gradient(self, parts: Tensor) -> None:
        """Outside of fp16, whose scale is found by trying, no gradient may overflow.

        DeepSpeed leaves out a step whose gradient is not finite, in every precision, and goes on.
        """
        if self._job.engine.precision != "fp16" and self._engine.skipped_steps:
            self._meter.send_rest()
            listed = self._meter.describe(parts.tolist())
            raise Diverged(f"the gradient is not finite at step {self.steps_done}: {listed}")
