"""Ranks that train without ZeRO, for the tests of several ranks (see `RankPool`)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import ltm
from ltm_platform.training.engine.ddp import DdpEngine
from ltm_platform.training.engine.interface import Classifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RANKS, ACCUMULATION, CLIP_GRAD, STEPS = 4, 2, 0.1, 6
CPU = torch.device("cpu")


class Toy(nn.Module):
    """Of its parameters no loss depends on `unused`, and no output on `beside`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 3)
        self.unused, self.beside = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.own_loss = (self.beside * images.mean()).square().sum()
        feature = self.first(images.flatten(1)).relu()
        return self.last(feature), feature


def toy() -> tuple[Toy, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Toy()
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)


def toy_batch(step: int, micro: int, rank: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed((step * ACCUMULATION + micro) * RANKS + rank)
    labels = torch.randint(3, (5,), generator=random)
    return torch.randn(5, 3, 2, 2, generator=random), labels


def toy_loss(model: Toy, forward: Callable[[Tensor], Any], batch: tuple[Tensor, Tensor]) -> Tensor:
    logits, _ = forward(batch[0])
    return F.cross_entropy(logits, batch[1]) + model.own_loss


def plain() -> Mapping[str, Tensor]:
    """One process, with torch alone."""
    model, optimizer = toy()
    for step in range(STEPS):
        micros = [(micro, rank) for micro in range(ACCUMULATION) for rank in range(RANKS)]
        for micro, rank in micros:
            loss = toy_loss(model, model, toy_batch(step, micro, rank))
            (loss / len(micros)).backward()
        model.unused.grad = torch.zeros(4)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_GRAD)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def ranks(rank: int) -> Mapping[str, Tensor]:
    model, optimizer = toy()
    module: Any = model
    engine = DdpEngine(module, optimizer, CPU, accumulation=ACCUMULATION, clip_grad=CLIP_GRAD)
    for step in range(STEPS):
        for micro in range(ACCUMULATION):
            engine.backward(toy_loss(model, engine, toy_batch(step, micro, rank)))
            engine.step()
    return model.state_dict()


class Run:
    """A network of several buckets, with an optimizer that remembers."""

    def __init__(self, weights: Mapping[str, Tensor] | None = None) -> None:
        torch.manual_seed(0)
        model = ltm.create_model("vit_tiny_patch16_224", "none", image_size=32, num_classes=10)
        if weights:
            model.load_state_dict(weights)
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        self.engine = DdpEngine(Classifier(model), self.optimizer, CPU)

    def step(self, step: int, rank: int) -> None:
        random = torch.Generator().manual_seed(step * RANKS + rank)
        images = torch.randn(2, 3, 32, 32, generator=random)
        labels = torch.randint(10, (2,), generator=random)
        self.engine.backward(F.cross_entropy(self.engine(images)[0], labels))
        self.engine.step()


def resumed(rank: int) -> dict[str, Mapping[str, Tensor]]:
    """After six steps of which three were taken by an engine that was built then."""
    first = Run()
    for step in range(3):
        first.step(step, rank)
    second = Run(copy.deepcopy(first.model.state_dict()))
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    for step in range(3, 6):
        first.step(step, rank)
        second.step(step, rank)
    return {"undisturbed": first.model.state_dict(), "resumed": second.model.state_dict()}


def trained() -> dict[str, Any]:
    """The same training by torch alone in one process, by these ranks, and with a resume."""
    rank = dist.get_rank()
    assert dist.get_world_size() == RANKS
    return {"plain": plain(), "ranks": ranks(rank), **resumed(rank)}
