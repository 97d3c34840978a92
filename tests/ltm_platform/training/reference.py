"""Training as its definition says it, with torch alone: what the Trainer must equal.

One process, the whole global batch in one forward pass, no DeepSpeed, no accumulation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ltm_platform.data import open_data
from ltm_platform.data.loader import EvalLoader, Loader
from ltm_platform.data.pixels import train_pipeline
from ltm_platform.data.pixels.exact import ExactEvaluation
from ltm_platform.data.pixels.on_device import ToNetwork
from ltm_platform.data.transforms import Augmentation
from ltm_platform.models import create_model, input_pixels
from ltm_platform.storage import locations
from ltm_platform.training.components import seed_everything
from ltm_platform.training.engine.build import Classifier
from ltm_platform.training.recipe.mixing import Mixer
from ltm_platform.training.recipe.network import build_network, build_objective
from ltm_platform.training.recipe.optimization import build_optimizer, build_schedule

if TYPE_CHECKING:
    from torch import Tensor

    from ltm import StreamingBottleneck
    from ltm_platform.job import JobSpec

CACHE = Path(locations.cache())


def train_plainly(job: JobSpec) -> dict[str, Any]:
    """Losses by step in the order of `Objective.parts`, gradient norms, the smallest `margin`."""
    recipe = job.recipe
    seed_everything(recipe.seed)
    dataset = open_data(job.data, cache=CACHE)
    classes = len(dataset.classes)
    model = build_network(job, classes).model
    pixels = input_pixels(model)
    pipeline = train_pipeline(
        Augmentation(**recipe.augment.model_dump()), pixels.size, pixels.mean, job.data.decode
    )
    to_network = ToNetwork(pixels.mean, pixels.std)
    batch = {"micro_batch": recipe.global_batch, "accumulation": 1, "rank": 0, "world_size": 1}
    more = {"seed": recipe.seed, "workers": 0, "allow_bad": job.data.allow_bad}
    loader = Loader(dataset.train, pipeline, **batch, **more)
    optimizer = build_optimizer(model, recipe)
    schedule = build_schedule(optimizer, recipe, loader.steps(recipe.epochs))
    objective, bottleneck = build_objective(job, model, classes, torch.device("cpu"))
    mixer, network = Mixer(recipe, classes), Classifier(model)
    losses, norms, margins = [], [], []
    for epoch in range(recipe.epochs):
        for images, labels, changes in loader.epoch(epoch):
            schedule.step_update(len(losses))
            images = to_network(images, changes)
            images, labels = mixer(images, labels, len(losses), epoch)
            logits, features = network(images)
            margins.append(margin(features.detach(), bottleneck))
            loss, parts = objective(images, labels, logits, features, epoch)
            optimizer.zero_grad()
            loss.backward()
            limit = recipe.clip_grad or float("inf")
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), limit).item())
            optimizer.step()
            bottleneck.sync()
            losses.append(parts.tolist())
    loader.close()
    return {"losses": losses, "norms": norms, "margin": min(margins)}


def margin(features: Tensor, bottleneck: StreamingBottleneck) -> float:
    """By how much the nearest cluster is nearer than the next, of the feature where it is least."""
    if not bottleneck.seeded.any():
        return float("inf")
    likeness = F.normalize(features.float(), dim=1) @ bottleneck.feature_centroids.T
    first, second = likeness.where(bottleneck.seeded, -torch.inf).topk(2).values.T
    return float((first - second).min())


@torch.no_grad()
def score_plainly(job: JobSpec, weights: dict[str, Tensor]) -> dict[str, float]:
    """The validation images one by one through a network with these weights."""
    dataset = open_data(job.data, cache=CACHE)
    model = create_model(job, len(dataset.classes))
    model.load_state_dict(weights)
    model.eval()
    pixels = input_pixels(model)
    to_network = ToNetwork(pixels.mean, pixels.std)
    pipeline = ExactEvaluation(pixels.size)
    one_by_one = EvalLoader(dataset.val, pipeline, batch=1, rank=0, world_size=1, workers=0)
    top1 = top5 = loss = 0.0
    for image, label, _ in one_by_one:
        logits = model(to_network(image))
        best = logits[0].argsort(descending=True)[:5].tolist()
        top1 += best[0] == label.item()
        top5 += label.item() in best
        loss += F.cross_entropy(logits, label).item()
    images = len(dataset.val)
    return {"top1": 100 * top1 / images, "top5": 100 * top5 / images, "loss": loss / images}
