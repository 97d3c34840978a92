"""Ranks that train a small model at several ZeRO stages and store what they saw.

    python ranks.py FOLDER

The fixture ``ranks`` runs it.
"""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from deepspeed.accelerator import get_accelerator
from safetensors.torch import save_file
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from groups import run

from ltm_platform import paths
from ltm_platform.data import open_dataset
from ltm_platform.data.loader import EvalLoader, Loader
from ltm_platform.data.transforms import Augment, eval_transform, train_transform
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.models import create_model, input_pixels
from ltm_platform.training import method_hooks
from ltm_platform.training.engine import Classifier, build_engine, deepspeed_config
from ltm_platform.training.evaluation import evaluate
from ltm_platform.training.micro_batch import candidates, find_micro_batch, largest
from ltm_platform.training.mixing import Mixer
from ltm_platform.training.network import build_network, build_objective
from ltm_platform.training.recipe import build_optimizer, build_schedule
from ltm_platform.training.sync_bn import synchronise
from ltm_platform.training.weights import ShardedEma, average_buffers, gather_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from ltm import StreamingBottleneck
    from ltm_platform.data import Source
    from ltm_platform.data.source import Indices

CLASSES = 10
TRAIN_IMAGES = 48
VAL_IMAGES = 21
EMA_DECAY = 0.6

MODEL: dict[str, Any] = {
    "backbone": "vit_nano_patch4_32",
    "compression_ratio": 0.7,
    "image_size": 32,
}
JOB: dict[str, Any] = {
    "model": MODEL,
    "data": {"path": "digits"},
    "recipe": {
        # Three accumulated steps an epoch, in the first with cross-entropy alone.
        "epochs": 2,
        "global_batch": 16,
        "micro_batch": 4,
        # SGD, so that a gradient of the wrong size shows; the largest are clipped.
        "optimizer": "sgd",
        "lr": 0.05,
        "warmup_epochs": 1,
        "clip_grad": 2.0,
        "ib": {"warmup": 0.5, "weight": 1.0},
        # One with which no feature lies as close to two clusters as float noise is large.
        "seed": 2,
    },
}
BATCH_NORM = {
    "model": {"backbone": "efficientvit_b0", "method": "none", "image_size": 32},
    "data": {"path": "digits"},
    # A small rate and few steps: each makes ten times as much of a difference, in a new network.
    "recipe": {"epochs": 1, "global_batch": 16, "optimizer": "sgd", "lr": 5e-4, "sync_bn": True},
}
# Gradients of several buckets; at ratio 1 the mask takes no part in the loss and has none.
BUCKETS = {
    "model": MODEL | {"backbone": "vit_tiny_patch16_224", "compression_ratio": 1.0},
    "data": {"path": "digits"},
    "recipe": JOB["recipe"] | {"lr": 5e-3, "weight_decay": 0.1, "ib": {"weight": 0.0}},
    "engine": {"zero_stage": 0},
}


@dataclass(frozen=True)
class First:
    """The first images of a source."""

    whole: Source
    count: int

    @property
    def classes(self) -> tuple[str, ...]:
        return self.whole.classes

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return self.whole.labels[: self.count]

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Indices) -> list[tuple[bytes, int]]:
        return self.whole.read(indices)

    def locate(self, index: int) -> str:
        return self.whole.locate(index)


class Plain:
    """Training in one process with torch alone: what engines must equal."""

    def __init__(self, job: JobSpec, rank: int = 0, workers: int = 1) -> None:
        self.job = job
        self.batch = job.batch(workers)
        torch.manual_seed(job.recipe.seed)
        self.model = build_network(job, CLASSES).model
        pixels = input_pixels(self.model)
        augment = Augment(**job.recipe.augment.model_dump())
        whole = open_dataset("digits", cache=paths.cache(), val_fraction=0.2)
        self.train_loader = Loader(
            First(whole.train, TRAIN_IMAGES),
            train_transform(augment, pixels.size, pixels.mean, pixels.std),
            micro_batch=self.batch.micro_batch,
            accumulation=self.batch.accumulation,
            rank=rank,
            world_size=workers,
            seed=job.recipe.seed,
            workers=0,
        )
        self.val_loader = EvalLoader(
            First(whole.val, VAL_IMAGES),
            eval_transform(pixels.size, pixels.mean, pixels.std),
            batch=self.batch.micro_batch,
            rank=rank,
            world_size=workers,
            workers=0,
        )
        self.optimizer = build_optimizer(self.model, job.recipe)
        self.forward: Any = Classifier(self.model)
        steps = self.train_loader.steps(job.recipe.epochs)
        self.schedule = build_schedule(self.optimizer, job.recipe, steps)
        self.objective, self.bottleneck = build_objective(
            job, self.model, CLASSES, torch.device("cpu")
        )
        self.mixer = Mixer(job.recipe, CLASSES)
        self.norms: list[float] = []
        self.margins: list[float] = []

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """``last`` of the micro-batches of a step."""
        (loss / self.batch.accumulation).backward()
        if last:
            limit = self.job.recipe.clip_grad or float("inf")
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit)
            self.norms.append(norm.item())
            self.optimizer.step()
            self.optimizer.zero_grad()

    def epoch(self, epoch: int) -> Iterator[list[float]]:
        """After every step the parts of its loss, averaged over the global batch."""
        parts = torch.zeros(len(self.objective.parts))
        step = self.train_loader.steps(epoch)
        for index, (images, labels) in enumerate(self.train_loader.epoch(epoch), start=1):
            last = index % self.batch.accumulation == 0
            self.schedule.step_update(step)
            images, labels = self.mixer(images, labels, step, epoch)
            logits, features = self.forward(images)
            loss, new_parts = self.objective(images, labels, logits, features, epoch)
            if last:
                self.bottleneck.share()
            self.backward(loss, last=last)
            self.margins.append(margin(features.detach(), self.bottleneck))
            parts += new_parts
            if last:
                step += 1
                self.bottleneck.sync()
                dist.all_reduce(parts)
                yield (parts / (self.batch.accumulation * self.batch.workers)).tolist()
                parts = torch.zeros(len(self.objective.parts))

    def close(self) -> None:
        self.train_loader.close()
        self.val_loader.close()


def margin(features: Tensor, bottleneck: StreamingBottleneck) -> float:
    """By how much the nearest cluster is nearer than the next, of the feature where it is least."""
    if not bottleneck.seeded.any():
        return float("inf")
    likeness = F.normalize(features.float(), dim=1) @ bottleneck.feature_centroids.T
    first, second = likeness.where(bottleneck.seeded, -torch.inf).topk(2).values.T
    return float((first - second).min())


class Engine(Plain):
    """What `ltm_platform.training.trainer.Trainer` has, without Ray Train around it."""

    def __init__(self, job: JobSpec, rank: int, workers: int) -> None:
        super().__init__(job, rank, workers)
        config = self.config(job)
        self.forward = build_engine(
            self.model,
            self.optimizer,
            config,
            device=torch.device("cpu"),
            compiled=job.engine.compile,
            channels_last=job.engine.channels_last,
        )

    def config(self, job: JobSpec) -> dict[str, Any]:
        return deepspeed_config(job, self.batch)

    def backward(self, loss: Tensor, *, last: bool) -> None:  # noqa: ARG002 - engines count
        self.forward.backward(loss)
        self.forward.step()

    def close(self) -> None:
        super().close()
        if isinstance(self.forward, DeepSpeedEngine):
            self.forward.destroy()


class Traced(Engine):
    """A compiled network, but not turned into machine code, which takes minutes."""

    def __init__(self, job: JobSpec, rank: int, workers: int) -> None:
        super().__init__(job, rank, workers)
        assert self.forward.module._compiled_call_impl is not None
        self.forward.module.compile(backend="eager")


class Overflowing(Engine):
    """Scales the loss so far up that no step of the test is free of overflow."""

    def config(self, job: JobSpec) -> dict[str, Any]:
        config = super().config(job)
        config["fp16"]["initial_scale_power"] = 60
        return config


@torch.no_grad()
def plain_scores(job: JobSpec, weights: dict[str, Tensor]) -> dict[str, float]:
    """The validation images one by one through a network with these weights."""
    model = create_model(job, CLASSES)
    model.load_state_dict(weights)
    model.eval()
    pixels = input_pixels(model)
    source = First(open_dataset("digits", cache=paths.cache(), val_fraction=0.2).val, VAL_IMAGES)
    transform = eval_transform(pixels.size, pixels.mean, pixels.std)
    one_by_one = EvalLoader(source, transform, batch=1, rank=0, world_size=1, workers=0)
    top1 = top5 = loss = 0.0
    for image, label, _ in one_by_one:
        logits = model(image)
        best = logits[0].argsort(descending=True)[:5].tolist()
        top1 += best[0] == label.item()
        top5 += label.item() in best
        loss += F.cross_entropy(logits, label).item()
    return {
        "top1": 100 * top1 / VAL_IMAGES,
        "top5": 100 * top5 / VAL_IMAGES,
        "loss": loss / VAL_IMAGES,
    }


def train(job: JobSpec, rank: int, workers: int) -> dict[str, Any]:
    """Train, and between the epochs validate as the trainer does."""
    with closing(Engine(job, rank, workers)) as trained:
        engine, val_loader = trained.forward, trained.val_loader
        ema = ShardedEma(engine, EMA_DECAY)
        losses, weights = [], [gather_weights(engine)]
        for parts in trained.epoch(0):
            ema.update()
            losses.append(parts)
            weights.append(gather_weights(engine))
        average_buffers(engine, ema)
        evaluated = gather_weights(engine)
        confusion = torch.zeros(CLASSES, CLASSES, dtype=torch.int64)
        seen: dict[str, Any] = {
            "weights": weights,
            "average elements": sum(shard.numel() for shard in ema._average),
            "scores": evaluate(engine, val_loader, confusion),
            "confusion": confusion,
        }
        if job.engine.zero_stage < 3:
            state = engine.module.model.state_dict()
            seen["state dict"] = {name: tensor.clone() for name, tensor in state.items()}
        with ema.applied():
            seen["average"] = gather_weights(engine)
            seen["average scores"] = evaluate(engine, val_loader)
        seen["restored"] = gather_weights(engine)
        seen["restored scores"] = evaluate(engine, val_loader)
        if rank == 0:
            seen["plain scores"] = plain_scores(job, evaluated)
            seen["plain average scores"] = plain_scores(job, seen["average"])
        seen["losses"] = losses + list(trained.epoch(1))
        return seen


def losses(kind: type[Plain], job: JobSpec, rank: int = 0, workers: int = 1) -> dict[str, Any]:
    """All epochs, and the weights at the end."""
    with closing(kind(job, rank, workers)) as trained:
        start = {k: w.detach().clone() for k, w in trained.model.named_parameters()}
        rows = [row for epoch in range(job.recipe.epochs) for row in trained.epoch(epoch)]
        seen: dict[str, Any] = {"losses": rows, "margin": min(trained.margins)}
        if job.engine.zero_stage < 3:
            seen["start"] = start
            seen["end"] = {k: w.detach().clone() for k, w in trained.model.named_parameters()}
        if job.engine.precision == "fp16":
            seen["skipped"] = trained.forward.skipped_steps
    return seen


def everything(folder: Path, **recipe: Any) -> JobSpec:
    """A job that uses what the recipe offers, most of it at once."""
    weights = folder / "teacher.safetensors"
    torch.manual_seed(1)
    job = JobSpec.from_dict(JOB | {"model": MODEL | {"method": "none", "compression_ratio": None}})
    save_file(create_model(job, CLASSES).state_dict(), weights)
    values = {
        "optimizer": "adamw",
        "lr": 2e-3,
        "layer_decay": 0.7,
        "freeze": ["patch_embed", "*.norm1.bias"],
        "mix": {"mixup": 0.8, "cutmix": 1.0},
        "distill": {
            "teacher": MODEL["backbone"],
            "checkpoint": str(weights),
            "temperature": 2.0,
        },
    }
    engine = {"channels_last": True, "grad_checkpointing": True}
    return JobSpec.from_dict(JOB | {"recipe": JOB["recipe"] | values | recipe, "engine": engine})


def structured(method: str, stage: int, rank: int, workers: int) -> dict[str, Any]:
    """A method that removes heads and units: what stays after an epoch, and its losses."""
    options = {"savit": {"images": 32}, "s2vite": {"update_every": 1, "share": 0.5}}[method]
    model = MODEL | {"method": method, "options": options}
    values = JOB | {"model": model, "engine": {"zero_stage": stage}}
    with closing(Engine(JobSpec.from_dict(values), rank, workers)) as trained:
        engine, network = trained.forward, trained.model
        method_hooks.scoring_pass(engine, trained.train_loader.epoch(0))
        method_hooks.before_training(engine)
        seen: dict[str, Any] = {"kept": [], "losses": []}
        for step, parts in enumerate(trained.epoch(0), start=1):
            seen["losses"].append(parts)
            method_hooks.after_step(engine, step, 4)
            seen["kept"].append(torch.cat([gate.kept for _, gate in network.gated]))
        seen["weights"] = gather_weights(engine)
        seen["plan"] = network.plan
    return seen


def norm_layers(rank: int, workers: int) -> dict[str, Any]:
    """A batch norm over all ranks, and torch's own over the whole batch."""
    random = torch.Generator().manual_seed(0)
    images = 3 + 2 * torch.randn(4, 8, 5, 5, generator=random)
    weight = torch.randn(images.shape, generator=random)
    seen: dict[str, Any] = {}
    for kind, build in {"torch": nn.BatchNorm2d, "timm": BatchNormAct2d}.items():
        for over in ("all", "ranks"):
            net = nn.Sequential(build(8))
            nn.init.uniform_(net[0].weight, generator=torch.Generator().manual_seed(1))
            first, last = 0, 4
            if over == "ranks":
                synchronise(net)
                first, last = rank * 4 // workers, (rank + 1) * 4 // workers
            x = images[first:last].clone().requires_grad_()
            for _ in range(2):
                y = net(x)
            (y * weight[first:last]).sum().backward()
            if over == "ranks":
                for parameter in net.parameters():
                    dist.all_reduce(parameter.grad)
            grads = [parameter.grad for parameter in net.parameters()]
            state = net.eval().state_dict()
            seen[f"{kind} {over}"] = [y.detach(), x.grad, net(images).detach(), grads, state]
        seen["share"] = (first, last)
    return seen


def micro_batches(rank: int) -> dict[str, Any]:
    """Rank 1 has less memory than rank 0."""
    device = torch.device("cpu")

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= (16, 7)[rank]

    tried: list[int] = []
    seen: dict[str, Any] = {"agreed": largest(candidates(24, even=False), fits, device)}
    seen["tried"] = tried
    try:
        largest([16, 32], fits, device)
    except UserError as error:
        seen["refused"] = str(error)
    job = JobSpec.from_dict(JOB | {"recipe": {"sync_bn": True, "micro_batch": "auto"}})
    seen["found"] = find_micro_batch(job, CLASSES, 24, device, 2)
    return seen


def see(folder: Path, rank: int, workers: int) -> None:
    # DeepSpeed asks the CPU for matrix units that work in fp16; torch can do without.
    get_accelerator().is_fp16_supported = lambda: True
    own = folder / f"{workers}-{rank}"
    own.mkdir()
    torch.save({1: alone, 2: two, 4: four}[workers](own, rank), own / "seen.pt")


def alone(folder: Path, rank: int) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    with closing(Plain(JobSpec.from_dict(JOB))) as plain:
        rows = [*plain.epoch(0), *plain.epoch(1)]
        seen["plain"] = {"losses": rows, "norms": plain.norms, "margin": min(plain.margins)}
    seen["zero 1"] = train(at_stage(1), rank, 1)
    seen["everything"] = losses(Plain, everything(folder, micro_batch=None))
    seen["sync bn"] = losses(Plain, JobSpec.from_dict(BATCH_NORM))
    seen["buckets"] = losses(Engine, JobSpec.from_dict(BUCKETS), rank, 1)
    seen["savit 1"] = structured("savit", 1, rank, 1)
    seen["s2vite 0"] = structured("s2vite", 0, rank, 1)
    seen["compiled"] = losses(Traced, at_stage(1).replace("engine.compile", True))
    return seen


def two(folder: Path, rank: int) -> dict[str, Any]:
    seen = {f"zero {stage}": train(at_stage(stage), rank, 2) for stage in range(4)}
    job = JobSpec.from_dict(JOB | {"model": BATCH_NORM["model"], "engine": {"zero_stage": 0}})
    seen["batch norm"] = train(job, rank, 2)
    seen["sync bn"] = losses(Engine, JobSpec.from_dict(BATCH_NORM), rank, 2)
    seen["buckets"] = losses(Engine, JobSpec.from_dict(BUCKETS), rank, 2)
    for stage, micro_batch in ((1, 8), (3, 4)):
        job = everything(folder, micro_batch=micro_batch)
        job = job.replace("engine.zero_stage", stage)
        seen[f"everything {stage}"] = losses(Engine, job, rank, 2)
    for stage in (1, 3):
        seen[f"fp16 {stage}"] = losses(Engine, in_fp16(stage), rank, 2)
    seen["overflow"] = losses(Overflowing, in_fp16(1), rank, 2)
    seen["savit 1"] = structured("savit", 1, rank, 2)
    for stage in (0, 1, 2):
        seen[f"s2vite {stage}"] = structured("s2vite", stage, rank, 2)
    seen["norm layers"] = norm_layers(rank, 2)
    seen["micro batches"] = micro_batches(rank)
    return seen


def four(folder: Path, rank: int) -> dict[str, Any]:  # noqa: ARG001 - as its kin
    return {f"zero {stage}": losses(Engine, at_stage(stage), rank, 4) for stage in range(4)}


def at_stage(stage: int) -> JobSpec:
    return JobSpec.from_dict(JOB | {"engine": {"zero_stage": stage}})


def in_fp16(stage: int) -> JobSpec:
    """Its first epoch alone: a CPU takes its time for fp16."""
    return at_stage(stage).replace("engine.precision", "fp16").replace("recipe.epochs", 1)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    run(partial(see, target), target / "meeting", 1, 2, 4)
