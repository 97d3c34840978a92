"""Knowledge distillation: the student also learns from a teacher's logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltm_platform.models import Pixels, input_pixels


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
        lower = self._precision != torch.float32
        with torch.autocast(images.device.type, self._precision, enabled=lower):
            logits: Tensor = self.model(images * self.scale + self.shift)
        return logits.float()


def divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, mean over images (arXiv 1503.02531).

    T^2 keeps the size of the gradient as it is at T = 1. Both logits are [b, C].
    """
    student = (logits.float() / temperature).log_softmax(-1)
    teacher = (teacher_logits.float() / temperature).log_softmax(-1)
    kl = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return temperature**2 * kl
