"""What is trained, and what trains it: the same with ZeRO and without."""

from __future__ import annotations

from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from ltm_platform.models import outcome
from ltm_platform.training.engine.sync_bn import BATCH_NORMS


class Classifier(nn.Module):
    """A timm model that returns its pooled feature beside its logits: the IB loss needs both.

    keeps_tokens: in training also its final tokens and their places, see `MergingViT.forward_kept`.
    """

    model: Any
    """A timm model: it has the methods that `forward` calls."""
    removed_again: int | None
    """How many tokens leave each block in a second pass in training; None has no second pass."""

    def __init__(
        self, model: nn.Module, *, channels_last: bool = False, keeps_tokens: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.channels_last = channels_last
        self.keeps_tokens = keeps_tokens
        self.removed_again = None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] -> logits [B, C], feature [B, D], and in training, where they are wanted,
        tokens of the image [B, P, D] and their places [B, P], -1 for none, then logits and feature
        of the second pass.
        """
        if self.channels_last:
            # The weights stay as they are, in flat shards; the layout of the images decides.
            images = images.contiguous(memory_format=torch.channels_last)
        kept: tuple[Tensor, ...] = ()
        if self.keeps_tokens and self.training:
            tokens, places = self.model.forward_kept(images)
            kept = tokens[:, self.model.num_prefix_tokens :], places
        else:
            tokens = self.model.forward_features(images)
        again: tuple[Tensor, ...] = ()
        if self.removed_again is not None and self.training:
            with self.model.reduced_by(self.removed_again):
                again = outcome(self.model, self.model.forward_features(images))
        return *outcome(self.model, tokens), *kept, *again

    def train(self, mode: bool = True) -> Self:
        """As torch's, but a batch norm whose weights are frozen keeps its statistics, too."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, BATCH_NORMS) and _frozen(module):
                module.eval()
        return self


def _frozen(module: nn.Module) -> bool:
    own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
    return bool(own) and not any(own)


class Engine(Protocol):
    """What training needs of DeepSpeed's engine; `DdpEngine` has it, too."""

    module: Classifier
    optimizer: Any
    """torch's, or that of ZeRO around it."""
    device: torch.device
    world_size: int
    global_rank: int
    global_steps: int
    skipped_steps: int
    """Steps whose gradient overflowed and changed nothing; without ZeRO there are none."""

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]: ...

    def backward(self, loss: Tensor) -> Any:
        """Of one micro-batch. Collective."""

    def step(self) -> None:
        """After every micro-batch; with the last of a step weights are updated. Collective."""

    def get_lr(self) -> list[float]:
        """Of every parameter group."""

    def zero_optimization_stage(self) -> int: ...
