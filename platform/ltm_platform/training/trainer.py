"""One rank's training: built once, then epochs of steps, validation and a checkpoint."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import ltm
from ltm_platform.data import open_data
from ltm_platform.data.loader import EvalLoader, Loader
from ltm_platform.data.transforms import Augment, eval_transform, train_transform
from ltm_platform.events import Decided, EpochEnded, Listener, Measured, Started
from ltm_platform.models import create_model, input_pixels, structure_cost, with_weights
from ltm_platform.training import checkpoint, method_hooks
from ltm_platform.training.bench import inference_speed
from ltm_platform.training.early_stop import EarlyStop
from ltm_platform.training.engine import build_engine, deepspeed_config
from ltm_platform.training.evaluation import evaluate
from ltm_platform.training.meter import CHECK_STEPS, Diverged, StepMeter
from ltm_platform.training.micro_batch import find_micro_batch
from ltm_platform.training.mixing import Mixer
from ltm_platform.training.network import build_network, build_objective
from ltm_platform.training.recipe import build_optimizer, build_schedule
from ltm_platform.training.watchdog import Watchdog
from ltm_platform.training.weights import (
    ShardedEma,
    average_buffers,
    gather_weights,
    weights_are_finite,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ltm_platform.data.decode import Decoded
    from ltm_platform.job import BatchPlan, JobSpec
    from ltm_platform.training.place import Place

CONFUSION_CLASSES = 2000
"""With more classes their confusion matrix would be larger than many a network."""


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - timm draws from the global generator
    torch.manual_seed(seed)


class Stopped(Exception):  # noqa: N818 - an outcome of training, not a mistake in it
    """Training was asked to end, and has saved. Raised at the same step on all ranks."""


class Trainer:
    """Everything that a rank trains with.

    Every public method is collective: all ranks call it, the same number of times.
    """

    def __init__(self, job: JobSpec, place: Place, *, cache: str, send: Listener) -> None:
        rank, workers = place.rank, place.world_size
        self.job, self._place, self._send = job, place, send
        self._batch = job.batch(workers)
        self._watchdog = Watchdog(job.cluster.hang_timeout_s)
        seed_everything(job.recipe.seed)

        dataset = open_data(job.data, cache=Path(cache), copying=True)
        self._num_classes = len(dataset.classes)
        if job.recipe.micro_batch == "auto":
            self._batch = self._fitting_batch()
            seed_everything(job.recipe.seed)
        model = build_network(job, self._num_classes).model
        self._plan = model.plan if job.model.elastic else None
        augment = Augment(**job.recipe.augment.model_dump())
        pixels = input_pixels(model)
        self._train_loader = Loader(
            dataset.train,
            train_transform(augment, pixels.size, pixels.mean, pixels.std),
            micro_batch=self._batch.micro_batch,
            accumulation=self._batch.accumulation,
            rank=rank,
            world_size=workers,
            seed=job.recipe.seed,
            workers=job.data.loader_workers,
        )
        self._val_loader = EvalLoader(
            dataset.val,
            eval_transform(pixels.size, pixels.mean, pixels.std),
            batch=self._batch.micro_batch,
            rank=rank,
            world_size=workers,
            workers=job.data.loader_workers,
        )

        optimizer = build_optimizer(model, job.recipe)
        self._engine = build_engine(
            model,
            optimizer,
            deepspeed_config(job, self._batch),
            device=place.device,
            compiled=job.engine.compile,
            channels_last=job.engine.channels_last,
        )
        self._steps = self._train_loader.steps(job.recipe.epochs)
        self._schedule = build_schedule(optimizer, job.recipe, self._steps)
        decay = job.recipe.ema_decay
        self._ema = ShardedEma(self._engine, decay) if decay else None
        self._objective, self._bottleneck = build_objective(
            job, model, self._num_classes, self._engine.device
        )
        self._mixer = Mixer(job.recipe, self._num_classes)
        self._early_stop = EarlyStop(job.recipe.early_stop)
        self._meter = StepMeter(send, self._batch.global_batch, self._objective.parts)
        self._steps_done = 0
        self._preempted = False
        self._stopping = False
        # From here on chance (dropout, drop path) differs between ranks.
        seed_everything(job.recipe.seed + rank)

    def _fitting_batch(self) -> BatchPlan:
        """The micro-batch that fits every rank's memory, and how it adds up to the global batch."""
        whole = self._batch
        place = self._place
        micro = find_micro_batch(
            self.job, self._num_classes, whole.micro_batch, place.device, place.local_world_size
        )
        batch = replace(whole, micro_batch=micro, accumulation=whole.micro_batch // micro)
        sentence = (
            f"recipe.micro_batch is {micro}, found by trying: batch {batch.global_batch} = "
            f"{micro} x {batch.accumulation} accumulated x {batch.workers} workers"
        )
        self._send(Decided("micro_batch", str(micro), sentence))
        return batch

    def restore(self) -> None:
        """Take up the run's last checkpoint; if there is none, let the method look at the data."""
        history = "[]"
        with self._place.last_checkpoint() as stored:
            if stored:
                self._steps_done, history = checkpoint.restore(stored, self._state())
        if not stored:
            batches = self._train_loader.epoch(0)
            method_hooks.scoring_pass(self._engine, self._watchdog.watched(batches))
        method_hooks.before_training(self._engine)
        started = Started(
            epochs=self.job.recipe.epochs,
            epochs_done=self._train_loader.epochs(self._steps_done),
            steps=self._steps,
            steps_done=self._steps_done,
            device=str(self._engine.device),
            workers=self._engine.world_size,
        )
        self._send(started)
        self._meter.replay(history)

    def _state(self) -> checkpoint.State:
        return checkpoint.State(self._engine, self._ema, self._bottleneck, self._early_stop)

    def epochs(self) -> Iterator[EpochEnded]:
        """Train all epochs that are left, the first of them perhaps in part.

        Raises:
            Diverged: on all ranks, when the loss or a weight is not finite.
            Stopped: on all ranks, when somebody asked for it.
        """
        epochs = self.job.recipe.epochs
        done = self._train_loader.epochs(self._steps_done)
        batches = self._train_loader.epoch(done, self._steps_done - self._train_loader.steps(done))
        for epoch in range(done, epochs):
            start, first_step = time.perf_counter(), self._steps_done
            self._train_epoch(epoch, batches)
            seconds = time.perf_counter() - start
            images = (self._steps_done - first_step) * self._batch.global_batch
            last = epoch + 1 == epochs
            if not last:
                batches = self._train_loader.epoch(epoch + 1)  # decoded meanwhile
            validated, confusion = self._validate()
            metrics = {"train/images_per_s": images / seconds} | validated
            metrics |= self._skipped_steps()
            self._early_stop.update(metrics["val/top1"])
            ended = EpochEnded(self._steps_done, epoch, metrics)
            self._meter.tell(ended)
            self._save(metrics, confusion)
            yield ended
            if not last and self._place.stop_is_requested():
                raise Stopped
            if self._early_stop.due:
                self._send(self._stopped_early(epoch))
                break

    def _train_epoch(self, epoch: int, batches: Iterator[Decoded]) -> None:
        parts = self._new_parts()
        self._compress()
        self._meter.restart_clock()
        for index, (images, labels) in enumerate(self._watchdog.watched(batches), start=1):
            self._schedule.step_update(self._steps_done)
            loss, micro_parts = self._loss(images, labels, epoch)
            parts += micro_parts / self._batch.accumulation
            complete = index % self._batch.accumulation == 0
            if complete:  # what ranks tell each other travels while backward computes
                self._bottleneck.share()
                self._meter.share(parts)
            self._engine.backward(loss)
            self._engine.step()
            if not complete:
                continue
            self._steps_done += 1
            method_hooks.after_step(self._engine, self._steps_done, self._steps)
            self._compress()
            self._bottleneck.sync()
            if self._ema:
                self._ema.update()
            lr = max(self._engine.get_lr())
            self._meter.step(self._steps_done, epoch, lr)
            self._check_gradient(parts)
            parts = self._new_parts()
            if self._checkpoint_is_due(epoch):
                average_buffers(self._engine, self._ema)
                self._save({})
                self._meter.restart_clock()
                if self._stopping:
                    raise Stopped
        self._meter.check()
        self._meter.send_rest()
        if self._plan is not None:
            self._engine.module.model.set_compression(self._plan)

    def _checkpoint_is_due(self, epoch: int) -> bool:
        """Within an epoch: every so many steps, once when the cluster takes a node away, and
        before an end that was asked for."""
        if self._steps_done == self._train_loader.steps(epoch + 1):
            return False  # the epoch's own comes after validation
        if self._steps_done % CHECK_STEPS == 0:
            self._stopping = self._place.stop_is_requested()
            if self._stopping:
                return True
            if not self._preempted:
                self._preempted = self._place.is_preempted()
                if self._preempted:
                    return True
        every = self.job.checkpoint.every_steps
        return every is not None and self._steps_done % every == 0

    def _save(self, metrics: dict[str, float], confusion: Tensor | None = None) -> None:
        """Store what is fit to go on from, and nothing else. Buffers are averaged before."""
        self._meter.check()
        if not weights_are_finite(self._engine):
            raise Diverged(f"a weight is not finite after step {self._steps_done}")
        self._watchdog.alive()
        self._meter.send_rest()
        history = self._meter.history()
        taken = checkpoint.snapshot(self.job, self._state(), self._steps_done, history, confusion)
        self._place.keep(taken, metrics)

    def _compress(self) -> None:
        """Elastic training: every step has a ratio of its own, the same on all ranks."""
        if self.job.model.elastic:
            seed, step = self.job.recipe.seed, self._steps_done
            ratio = ltm.elastic_ratio(self.job.model.elastic, step, seed)
            self._engine.module.model.set_compression(ratio)

    def _new_parts(self) -> Tensor:
        return torch.zeros(len(self._objective.parts), device=self._engine.device)

    def _loss(self, images: Tensor, labels: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """The loss of one micro-batch, and its parts as `Objective` gives them."""
        device = self._engine.device
        images, labels = images.to(device), labels.to(device)
        images, labels = self._mixer(images, labels, self._steps_done, epoch)
        logits, features = self._engine(images)
        return self._objective(images, labels, logits, features, epoch)

    def _check_gradient(self, parts: Tensor) -> None:
        """Outside of fp16, whose scale is found by trying, no gradient may overflow.

        DeepSpeed leaves out a step whose gradient is not finite, in every precision, and goes on.
        """
        if self.job.engine.precision != "fp16" and self._engine.skipped_steps:
            self._meter.send_rest()
            listed = self._meter.describe(parts.tolist())
            raise Diverged(f"the gradient is not finite at step {self._steps_done}: {listed}")

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

    def _validate(self) -> tuple[dict[str, float], Tensor | None]:
        """Metrics, and the confusion matrix of the weights unless there are too many classes."""
        average_buffers(self._engine, self._ema)
        confusion = None
        if self._num_classes <= CONFUSION_CLASSES:
            shape, device = (self._num_classes, self._num_classes), self._engine.device
            confusion = torch.zeros(shape, dtype=torch.int64, device=device)
        metrics = {f"val/{k}": v for k, v in self._evaluate(confusion).items()}
        if self._ema:
            with self._ema.applied():
                metrics["val/ema_top1"] = self._evaluate()["top1"]
        metrics |= {f"ib/{k}": v for k, v in self._bottleneck.summary().items()}
        return metrics, confusion

    def _evaluate(self, confusion: Tensor | None = None) -> dict[str, float]:
        return evaluate(self._engine, self._watchdog.watched(self._val_loader), confusion)

    def measure_inference(self) -> None:
        """Rank 0 times the finished network, whole and unsharded."""
        self._watchdog.alive()
        weights = gather_weights(self._engine)
        if self._engine.global_rank == 0:
            model = create_model(self.job, self._num_classes)
            model = with_weights(model, weights)
            size = input_pixels(model).size
            speed = inference_speed(model, size, self._engine.device)
            metrics = {f"bench/{k}": v for k, v in speed.items()} | structure_cost(model, size)
            self._send(Measured(self._steps_done, self.job.recipe.epochs - 1, metrics))

    def close(self) -> None:
        self._watchdog.close()
        self._train_loader.close()
        self._val_loader.close()
