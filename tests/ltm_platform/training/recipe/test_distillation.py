"""What a teacher adds to the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

import ltm
from ltm.bottleneck import StreamingBottleneck
from ltm.errors import FieldError
from ltm_platform.job import Distill, Recipe
from ltm_platform.models import Pixels, input_pixels
from ltm_platform.training.engine.interface import Classifier
from ltm_platform.training.recipe.distillation import (
    Teacher,
    check_keeps_tokens,
    check_same_features,
    check_same_tokens,
    divergence,
    token_distance,
)
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


def test_features_are_those_of_the_teachers_head() -> None:
    model = network()
    recipe = Recipe(epochs=10, distill=Distill(teacher="x", weight=0.0, features=2.0))
    teacher = Teacher(model, input_pixels(model), torch.float32)
    objective = Objective(recipe, StreamingBottleneck(CLASSES, feature_dim=64), teacher)
    images, own = torch.randn(6, 3, 32, 32), torch.randn(6, 64, requires_grad=True)
    loss, parts = objective(images, torch.arange(6) % CLASSES, logits(0), own, 0)
    seen: list[torch.Tensor] = []
    hook = model.get_classifier().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model.eval()(images)
    hook.remove()
    told = dict(zip(objective.parts, parts, strict=True))
    torch.testing.assert_close(told["train/distill_features"], (own - seen[0]).square().mean())
    torch.testing.assert_close(
        told["train/loss"], told["train/ce"] + 2 * told["train/distill_features"]
    )
    loss.backward()
    assert own.grad is not None


def test_a_teacher_of_other_features_is_refused() -> None:
    wide = ltm.create_model("vit_tiny_patch16_224", "none", image_size=32, num_classes=CLASSES)
    with pytest.raises(FieldError, match="has 192 features, not 64") as caught:
        check_same_features(network(), wide, 0.5)
    assert caught.value.field == "recipe.distill.features"
    check_same_features(network(), network(), 0.5)


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


# --- tokens


def student(method: str) -> Any:
    torch.manual_seed(4)
    model = ltm.create_model(
        "vit_nano_patch4_32", method, compression_ratio=0.7, num_classes=CLASSES
    )
    model.load_state_dict(network().state_dict(), strict=False)
    return model.train()


def test_kept_tokens_are_compared_at_their_own_places() -> None:
    tokens, teacher = torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    places = torch.tensor([[3, -1, 0], [-1, 2, -1]])
    pairs = [(0, 0, 3), (0, 2, 0), (1, 1, 2)]
    expected = sum((tokens[b, p] - teacher[b, n]).square().sum() for b, p, n in pairs) / 15
    torch.testing.assert_close(token_distance(tokens, places, teacher), expected)
    nothing = token_distance(tokens, torch.full((2, 3), -1), teacher)
    assert nothing == 0


@pytest.mark.parametrize("method", ["dynamicvit", "spvit"])
def test_the_loss_of_the_paper_is_the_sum_of_its_terms(method: str) -> None:
    """CE + 2 x mean of squared gaps + 0.5 KL + 0.5 MSE, the method's own term among them."""
    model, base = student(method), network().eval()
    settings = Distill(teacher="itself", labels=1.0, weight=0.5, tokens=0.5)
    recipe = Recipe(epochs=10, distill=settings)
    teacher = Teacher(base, input_pixels(model), torch.float32)
    bottleneck = StreamingBottleneck(CLASSES, feature_dim=64)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(6) % CLASSES
    masses: list[torch.Tensor] = []
    model.method.register_forward_hook(lambda _m, _a, merge: masses.append(merge.sizes()))
    raw: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda _m, _a, out: raw.append(out))
    logits, feature, tokens, places = Classifier(model, keeps_tokens=True)(images)
    gaps = torch.stack(list(model.method._gaps.values()))
    kept = masses[-1][:, :64] > 0.5
    assert 0 < kept.sum() < kept.numel()
    loss, parts = Objective(recipe, bottleneck, teacher, model.method)(
        images, labels, logits, feature, 0, tokens, places
    )
    with torch.no_grad():
        wanted = base.forward_features(images)
        soft = divergence(logits, base(images), 1.0)
    hard = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    distance = (raw[-1][:, :64][kept] - wanted[kept]).square().mean()
    expected = hard + 2 * gaps.mean() + 0.5 * soft + 0.5 * distance
    torch.testing.assert_close(loss, expected)
    assert loss.isfinite()
    objective = Objective(recipe, bottleneck, teacher, model.method)
    told = dict(zip(objective.parts, parts, strict=True))
    torch.testing.assert_close(told["train/distill_tokens"], distance.detach())


def test_tokens_are_kept_in_training_alone() -> None:
    classifier = Classifier(student("dynamicvit"), keeps_tokens=True)
    images = torch.randn(2, 3, 32, 32)
    assert len(classifier.train()(images)) == 4
    assert len(classifier.eval()(images)) == 2


def test_gathered_tokens_know_their_places() -> None:
    """Outside of training, too: at ratio 1 all, and what is left are the patches themselves."""
    model = student("spvit").eval()
    images = torch.randn(2, 3, 32, 32)
    merges: list[Any] = []
    model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))
    with torch.no_grad():
        tokens, places = model.forward_kept(images)
    assert tokens.shape[1] == places.shape[1]
    assert (places[:, -3:] == -1).all()
    index = merges[0].merge.index
    for merge in merges[1:]:
        index = torch.cat([index, torch.full((2, 1), -1)], 1).gather(1, merge.merge.index)
    assert (places[:, :-1] == index).all()
    model.set_compression(1)
    with torch.no_grad():
        assert model.forward_kept(images)[1].tolist() == [list(range(64))] * 2


@pytest.mark.parametrize(
    ("backbone", "method", "why"),
    [
        ("vit_nano_patch4_32", "none", "'none', which keeps all"),
        ("vit_nano_patch4_32", "tome", "'tome', which merges tokens"),
        ("swin_nano_patch2_window4_32", "tome", "'tome', whose tokens have no places"),
    ],
)
def test_tokens_that_cannot_be_compared_are_refused(backbone: str, method: str, why: str) -> None:
    model = ltm.create_model(backbone, method, num_classes=CLASSES)
    with pytest.raises(FieldError, match=why) as caught:
        check_keeps_tokens(model, 0.5)
    assert caught.value.field == "recipe.distill.tokens"
    for kept in ("dynamicvit", "spvit"):
        check_keeps_tokens(student(kept), 0.5)


@pytest.mark.parametrize(
    ("teacher", "options"),
    [
        ("vit_micro_patch4_32", {}),
        ("vit_nano_patch4_32", {"method": "tome"}),
        ("swin_nano_patch2_window4_32", {}),
    ],
)
def test_a_teacher_of_other_tokens_is_refused(teacher: str, options: dict[str, Any]) -> None:
    other = ltm.create_model(teacher, num_classes=CLASSES, **{"method": "none", **options})
    with pytest.raises(FieldError, match=r"recipe\.distill\.teacher has other tokens"):
        check_same_tokens(student("dynamicvit"), other, 0.5)
    check_same_tokens(student("dynamicvit"), network(), 0.5)
