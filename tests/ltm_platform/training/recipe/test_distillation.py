"""What a teacher adds to the loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import ltm
from ltm.bottleneck import StreamingBottleneck
from ltm_platform.job import Distill, Recipe
from ltm_platform.models import Pixels, input_pixels
from ltm_platform.training.recipe.distillation import Teacher, divergence
from ltm_platform.training.recipe.optimization import Objective

CLASSES = 4


def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return ltm.create_model("vit_nano_patch4_32", "none", image_size=32, num_classes=CLASSES)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(seed))


def test_the_divergence_is_that_of_the_softened_distributions() -> None:
    student, teacher = logits(0), logits(1)
    p, q = ((x / 3).softmax(-1) for x in (teacher, student))
    expected = 9 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(divergence(student, teacher, 3.0), expected)
    torch.testing.assert_close(divergence(student, student, 3.0), torch.tensor(0.0))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_teacher_has_its_share_of_the_loss(weight: float) -> None:
    model = network()
    recipe = Recipe(epochs=10, distill=Distill(teacher="x", weight=weight, temperature=2.0))
    teacher = Teacher(model, input_pixels(model), torch.float32)
    bottleneck = StreamingBottleneck(CLASSES, feature_dim=8)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    labels, student = torch.arange(6) % CLASSES, logits(0).requires_grad_()
    objective = Objective(recipe, bottleneck, teacher)
    loss, parts = objective(images, labels, student, torch.randn(6, 8), 0)
    hard = F.cross_entropy(student, labels, label_smoothing=recipe.label_smoothing)
    with torch.no_grad():
        soft = divergence(student, model.eval()(images), 2.0)
    torch.testing.assert_close(loss, (1 - weight) * hard + weight * soft)
    told = dict(zip(objective.parts, parts, strict=True))
    expected = {"train/loss": loss.detach(), "train/ce": hard.detach(), "train/distill": soft}
    torch.testing.assert_close({name: told[name] for name in expected}, expected)


def test_the_teacher_sees_the_image_as_it_was_trained_to() -> None:
    """The student's pixels are normalised by other means and deviations than the teacher's."""
    model = network()
    own = input_pixels(model)
    student = Pixels(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    raw = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    def normalised(pixels: Pixels) -> torch.Tensor:
        mean, std = (torch.tensor(x)[:, None, None] for x in (pixels.mean, pixels.std))
        return (raw - mean) / std

    assert own.mean != student.mean
    teacher = Teacher(model, student, torch.float32)
    with torch.no_grad():
        expected = model(normalised(own))
    torch.testing.assert_close(teacher(normalised(student)), expected, rtol=1e-4, atol=1e-5)


def test_the_teacher_never_changes() -> None:
    teacher = Teacher(network(), input_pixels(network()), torch.float32)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
