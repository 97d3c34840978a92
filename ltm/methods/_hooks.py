"""What training calls of every method, without knowing which one it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping


class Hooks(nn.Module):
    """Base of all methods, of tokens and of structure. By default nothing happens.

    freezes_backbone: only the method's own parameters learn.
    adds_to_loss: it has `loss_terms`.
    scoring_images: training images, over all ranks, of a pass before the first step; 0 is no pass.
    whole_weights: the method looks at whole weights, which ZeRO stage 3 does not have, or changes
        what the network computes from step to step, which a compiled network does not see.
    """

    freezes_backbone: bool = False
    adds_to_loss: bool = False
    scoring_images: int = 0
    whole_weights: bool = False

    def rates(self) -> Mapping[str, float]:
        """Factor of the recipe's learning rate for parameters whose name holds the key."""
        return {}

    def loss_terms(self) -> dict[str, Tensor]:
        """Scalars by name, already weighted, from the last forward pass in training mode."""
        return {}

    def before_scoring(self, model: Any) -> None:
        """Before the scoring pass."""

    def score(self, model: Any, loss: Tensor) -> None:
        """One micro-batch of the scoring pass: its mean loss, with a graph."""

    def after_scoring(self, model: Any) -> None:
        """After the scoring pass. Collective: all ranks decide the same."""

    def before_training(self, model: Any) -> None:
        """Before the first step of a new run, and before the next one of a resumed run."""

    def after_step(self, model: Any, step: int, steps: int) -> None:
        """After optimizer step `step`, from 1, of all `steps`. Collective."""
