"""Knowledge distillation: the student also learns from a teacher's logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltm.errors import FieldError
from ltm.interfaces import compressible
from ltm.modes import evaluating
from ltm_platform.models import Pixels, input_pixels, method_of, outcome

_TOKENS = "recipe.distill.tokens"
_FEATURES = "recipe.distill.features"


class Teacher(nn.Module):
    """A trained network that sees what the student sees, on every rank, and never changes.

    student: the pixels that the student's images are normalised for.
    precision: of its forward pass; torch.float32 for as it is.
    """

    def __init__(self, model: nn.Module, student: Pixels, precision: torch.dtype) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self._precision = precision
        own = input_pixels(model)
        mean, std = torch.tensor(student.mean), torch.tensor(student.std)
        self.register_buffer("scale", (std / torch.tensor(own.std))[:, None, None])
        shift = (mean - torch.tensor(own.mean)) / torch.tensor(own.std)
        self.register_buffer("shift", shift[:, None, None])
        self.eval()

    scale: Tensor
    shift: Tensor

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """The student's images [b, 3, H, W] -> logits [b, C], float32."""
        with self._lowered(images):
            logits: Tensor = self.model(images * self.scale + self.shift)
        return logits.float()

    @torch.no_grad()
    def inside(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, the pooled feature [b, D], and what timm's `forward_features` gives."""
        network: Any = self.model
        with self._lowered(images):
            tokens = network.forward_features(images * self.scale + self.shift)
            logits, feature = outcome(network, tokens)
        return logits.float(), feature.float(), tokens.float()

    @property
    def prefix(self) -> int:
        """Tokens of a ViT before those of the image."""
        network: Any = self.model
        count: int = network.num_prefix_tokens
        return count

    def _lowered(self, images: Tensor) -> torch.autocast:
        lower = self._precision != torch.float32
        return torch.autocast(images.device.type, self._precision, enabled=lower)


def divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, mean over images (arXiv 1503.02531).

    T^2 keeps the size of the gradient as it is at T = 1. Both logits are [b, C].
    """
    student = (logits.float() / temperature).log_softmax(-1)
    teacher = (teacher_logits.float() / temperature).log_softmax(-1)
    kl = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * kl


def feature_distance(features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean squared difference of pooled features, both [b, D]."""
    return F.mse_loss(features.float(), teacher_features)


def token_distance(tokens: Tensor, places: Tensor, teacher_tokens: Tensor) -> Tensor:
    """Mean squared difference of the kept tokens to the teacher's of the same places.

    tokens: [b, P, D]. places: [b, P], the place of each among those of the teacher [b, N, D], -1
    for one that has none, which does not count. The mean is over all kept tokens and channels (as
    in DynamicViT, arXiv 2106.02034, section 3.3), 0 where none is kept.
    """
    index = places.clamp_min(0)[..., None].expand(-1, -1, tokens.shape[-1])
    kept = (places >= 0)[..., None].float()
    square = (tokens.float() - teacher_tokens.float().gather(1, index)).square() * kept
    return square.sum() / (kept.sum() * tokens.shape[-1]).clamp_min(1)


@torch.no_grad()
def check_keeps_tokens(model: Any, weight: float) -> None:
    """Check that the final tokens of a network are some of its image's, at known places.

    Raises:
        FieldError: they are not.
    """
    name = method_of(model).name or "none"
    allowed = "0, or a method that keeps or drops tokens of a plain ViT"
    if not hasattr(model, "forward_kept"):
        where = "whose tokens have no places to compare" if name != "none" else "which keeps all"
        problem = f"is {weight:g}, but model.method is {name!r}, {where}"
        raise FieldError(_TOKENS, weight, allowed, problem)
    weights = next(model.parameters())
    pixels = input_pixels(model).size
    with evaluating(model):
        images = weights.new_zeros(1, 3, pixels, pixels)
        places = model.forward_kept(images)[1]
    if places is None:
        problem = f"is {weight:g}, but model.method is {name!r}, which merges tokens"
        raise FieldError(_TOKENS, weight, allowed, problem)


def check_same_features(model: Any, teacher: Any, weight: float) -> None:
    """Check that a teacher's pooled feature is as wide as the student's.

    Raises:
        FieldError: it is not.
    """
    own, other = model.head_hidden_size, getattr(teacher, "head_hidden_size", None)
    if own != other:
        problem = f"is {weight:g}, but recipe.distill.teacher has {other} features, not {own}"
        raise FieldError(_FEATURES, weight, "0, or a teacher such as 'itself'", problem)


def check_same_tokens(model: Any, teacher: Any, weight: float) -> None:
    """Check that a teacher has tokens at the places of the student's, as wide as they are.

    Raises:
        FieldError: it has not.
    """
    grids = [
        getattr(getattr(net, "patch_embed", None), "grid_size", None) for net in (model, teacher)
    ]
    widths = [getattr(net, "embed_dim", None) for net in (model, teacher)]
    if grids[0] != grids[1] or widths[0] != widths[1] or compressible(teacher).plan:
        problem = f"is {weight:g}, but recipe.distill.teacher has other tokens than the network"
        raise FieldError(_TOKENS, weight, "0, or a teacher such as 'itself'", problem)
