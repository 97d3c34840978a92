"""Optimizer steps: forward, what ranks tell each other, backward, and the update."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import ltm
from ltm.checkpoints import classifiers
from ltm_platform.compat.deepspeed_engine import clear_gradients, wrapped_optimizer
from ltm_platform.compat.torch import after_gradients
from ltm_platform.training.engine.compiled import COMPILED_RATIOS
from ltm_platform.training.measurement.stage_times import COMPUTE, COPY, EXCHANGE, stage_clock
from ltm_platform.training.prefetch import DevicePrefetcher
from ltm_platform.training.recipe import method_hooks
from ltm_platform.training.recipe.consistency import removals
from ltm_platform.training.step_metrics import CHECK_STEPS, Diverged

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
    clock: where the time of the steps goes.
    """

    def __init__(self, job: JobSpec, components: Components, meter: StepMeter) -> None:
        self._job, self._components, self._meter = job, components, meter
        self._engine = components.engine
        self._model = components.engine.module.model
        self._steps = components.train_loader.steps(job.recipe.epochs)
        self._plan = self._model.plan if job.model.elastic else None
        self.steps_done = 0
        # At ZeRO 3 a rank has a slice of the classifier; of two, each has a feature of its own.
        one_whole = job.engine.zero_stage < 3 and len(classifiers(self._model)) == 1
        self._measures_ib = job.recipe.ib.weight > 0 and one_whole
        self._ib_ratio: Tensor | None = None
        self.clock = stage_clock(self._engine.device, components.train_loader.spent)
        # A single rank waits for nobody.
        self._exchange = EXCHANGE if self._engine.world_size > 1 else COMPUTE
        optimizer = wrapped_optimizer(components.engine)
        # What follows it within a step of ZeRO is the gathering of the weights.
        optimizer.register_step_post_hook(lambda *_: self.clock.lap(COMPUTE))

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
        self.clock.restart()
        arriving = DevicePrefetcher(self.clock.waited(batches), self._engine.device)
        for index, batch in enumerate(arriving, start=1):
            self.clock.lap(COPY)
            its.schedule.step_update(self.steps_done)
            complete = index % its.batch.accumulation == 0
            ends_epoch = complete and self.steps_done + 1 == end
            loss, micro_parts = self._loss(batch, epoch, ends_epoch=ends_epoch)
            parts += micro_parts / its.batch.accumulation
            if complete:  # what ranks tell each other travels while backward computes
                its.bottleneck.share()
                self._meter.share(parts)
            after_gradients(loss, lambda: self.clock.lap(COMPUTE))
            self._engine.backward(loss)
            self.clock.lap(self._exchange)
            self._engine.step()
            self.clock.lap(self._exchange)
            if not complete:
                continue
            clear_gradients(self._engine)
            self.steps_done += 1
            method_hooks.after_step(self._engine, self.steps_done, self._steps)
            self._compress()
            self.clock.lap(COMPUTE)
            its.bottleneck.sync()
            self.clock.lap(self._exchange)
            if its.ema:
                its.ema.update()
            self.clock.lap(COMPUTE)
            lr, ends_epoch = max(self._engine.get_lr()), self.steps_done == end
            self._meter.step(self.steps_done, epoch, lr, ends_epoch=ends_epoch)
            if self.steps_done % CHECK_STEPS == 0:  # where the meter has waited for the device
                its.bottleneck.note_seeded()
            self._check_gradient(parts)
            parts = self._new_parts()
            self.clock.lap(self._exchange)
            self.clock.step()
            yield
            self.clock.restart()
        self._meter.check()
        self._meter.send_rest()
        if self._plan is not None:
            self._model.set_compression(self._plan)

    def ib_gradient_ratio(self) -> dict[str, float]:
        """As `Objective.ib_gradient_ratio`, of this rank's last micro-batch of an epoch."""
        return {} if self._ib_ratio is None else {"train/ib_grad_ratio": self._ib_ratio.item()}

    def _compress(self) -> None:
        """What is drawn for every step alike on all ranks: a ratio of elastic training, and what
        leaves in a second pass.
        """
        below, seed = self._job.recipe.consistency.below, self._job.recipe.seed
        if below is not None:
            self._engine.module.removed_again = removals(below, seed, self.steps_done)
        elastic = self._job.model.elastic
        if elastic:
            choices = COMPILED_RATIOS if self._job.engine.compile else None
            ratio = ltm.elastic_ratio(elastic, self.steps_done, self._job.recipe.seed, choices)
            self._model.set_compression(ratio)

    def _new_parts(self) -> Tensor:
        return torch.zeros(len(self._components.objective.parts), device=self._engine.device)

    def _loss(self, batch: TrainingBatch, epoch: int, *, ends_epoch: bool) -> tuple[Tensor, Tensor]:
        """The loss of one micro-batch on the device, and its parts as `Objective` gives them."""
        its = self._components
        images, labels = its.to_network(batch.images, batch.changes), batch.labels
        images, labels = its.mixer(images, labels, self.steps_done, epoch)
        logits, features, *further = self._engine(images)
        if ends_epoch and self._measures_ib:
            (head,) = classifiers(self._model).values()
            self._ib_ratio = its.objective.ib_gradient_ratio(head, features, labels, images)
        return its.objective(images, labels, logits, features, epoch, *further)

    def _check_gradient(self, parts: Tensor) -> None:
        """Outside of fp16, whose scale is found by trying, no gradient may overflow.

        DeepSpeed leaves out a step whose gradient is not finite, in every precision, and goes on.
        """
        if self._job.engine.precision != "fp16" and self._engine.skipped_steps:
            self._meter.send_rest()
            listed = self._meter.describe(parts.tolist())
            raise Diverged(f"the gradient is not finite at step {self.steps_done}: {listed}")
