"""Optimizer, learning rate and loss, as functions of the recipe alone."""

from __future__ import annotations

import math

import pytest
import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import Tensor, nn
from torch.nn import functional as F

import ltm
from ltm.bottleneck import StreamingBottleneck
from ltm.errors import FieldError
from ltm_platform.job import BackboneRate, Bottleneck, Recipe
from ltm_platform.models import freeze_backbone
from ltm_platform.training.recipe.optimization import (
    Objective,
    build_optimizer,
    build_schedule,
    check_method_learns,
    is_elementwise,
    rate_after,
)

CLASSES, DIM, IMAGES = 3, 8, 12
STEPS_PER_EPOCH = 10


# --- the loss


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, logits and features."""
    random = torch.Generator().manual_seed(0)
    return (
        torch.randn(IMAGES, 3, 32, 32, generator=random),
        torch.arange(IMAGES) % CLASSES,
        torch.randn(IMAGES, CLASSES, generator=random).requires_grad_(),
        torch.randn(IMAGES, DIM, generator=random).requires_grad_(),
    )


@pytest.fixture
def bottleneck(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> StreamingBottleneck:
    images, labels, _, features = batch
    bottleneck = StreamingBottleneck(CLASSES, feature_dim=DIM)
    bottleneck(features.detach(), labels, images)
    bottleneck.sync()
    return bottleneck


def recipe(warmup: float) -> Recipe:
    return Recipe(epochs=10, label_smoothing=0.2, ib=Bottleneck(weight=0.5, warmup=warmup))


@pytest.mark.parametrize(("warmup", "epoch"), [(0.3, 0), (0.3, 2), (1.0, 9), (0.05, 0)])
def test_warm_up_is_smoothed_cross_entropy_alone(
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    bottleneck: StreamingBottleneck,
    warmup: float,
    epoch: int,
) -> None:
    images, labels, logits, features = batch
    loss, parts = Objective(recipe(warmup), bottleneck)(images, labels, logits, features, epoch)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.2)
    bound = bottleneck(features, labels, images)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(parts[:3], torch.stack([expected, expected, bound]).detach())
    loss.backward()
    assert features.grad is None


@pytest.mark.parametrize(("warmup", "epoch"), [(0.3, 3), (0.3, 9), (0.0, 0), (0.05, 1)])
def test_after_it_the_bound_joins_and_labels_stay_smoothed(
    batch: tuple[Tensor, Tensor, Tensor, Tensor],
    bottleneck: StreamingBottleneck,
    warmup: float,
    epoch: int,
) -> None:
    images, labels, logits, features = batch
    loss, parts = Objective(recipe(warmup), bottleneck)(images, labels, logits, features, epoch)
    cross_entropy = F.cross_entropy(logits, labels, label_smoothing=0.2)
    bound = bottleneck(features, labels, images)
    expected = cross_entropy + 0.5 * bound
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(parts[:3], torch.stack([expected, cross_entropy, bound]).detach())
    loss.backward()
    assert features.grad is not None
    assert features.grad.norm() > 0


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.78557), (2, 0.78557), (3, 0.81389)])
def test_labels_are_smoothed_in_both_phases_as_in_the_published_script(
    epoch: int, expected: float
) -> None:
    """By hand: one image of class 0, logits (ln 2, 0, 0), smoothing 0.2, weight 0.5.

    Log-probabilities are -0.69315, -1.38629, -1.38629 and targets 0.86667, 0.06667, 0.06667:
    cross-entropy 0.86667 x 0.69315 + 2 x 0.06667 x 1.38629 = 0.78557. All centroids are 0, so that
    phi is 1/3 everywhere, and Q(a | 0) is 1/2, 1/4, 1/4: the bound is
    -ln 3 + (0.69315 + 2 x 1.38629) / 3 = 0.05663, and 0.78557 + 0.5 x 0.05663 = 0.81389.
    """
    bottleneck = StreamingBottleneck(CLASSES, feature_dim=DIM)
    bottleneck.feature_centroids.zero_()
    bottleneck.input_centroids.zero_()
    bottleneck.log_q.copy_(torch.tensor([[0.5, 0.25, 0.25]] * CLASSES).log())
    logits = torch.tensor([[math.log(2), 0.0, 0.0]])
    loss, parts = Objective(recipe(0.3), bottleneck)(
        torch.ones(1, 3, 32, 32), torch.tensor([0]), logits, torch.ones(1, DIM), epoch
    )
    assert loss.item() == pytest.approx(expected, abs=2e-5)
    assert parts.tolist() == pytest.approx([expected, 0.78557, 0.05663], abs=2e-5)


def test_terms_of_the_method_are_added_and_told(
    batch: tuple[Tensor, Tensor, Tensor, Tensor], bottleneck: StreamingBottleneck
) -> None:
    images, labels, logits, features = batch
    model = ltm.create_model("vit_nano_patch4_32", "ltmp", compression_ratio=0.7)
    model.train()(images)
    without, _ = Objective(recipe(0.3), bottleneck)(images, labels, logits, features, 5)
    objective = Objective(recipe(0.3), bottleneck, method=model.method)
    loss, parts = objective(images, labels, logits, features, 5)
    assert parts[3] > 0
    torch.testing.assert_close(loss, without + parts[3])
    assert objective.parts[3] == "train/method_loss"


def test_the_parts_keep_no_graph(
    batch: tuple[Tensor, Tensor, Tensor, Tensor], bottleneck: StreamingBottleneck
) -> None:
    images, labels, logits, features = batch
    _, parts = Objective(recipe(0.0), bottleneck)(images, labels, logits, features, 5)
    assert not parts.requires_grad


# --- the learning rate


def rates(recipe: Recipe) -> list[float]:
    """The rate of every step of the recipe, and of the one that would follow."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
    schedule = build_schedule(optimizer, recipe, recipe.epochs * STEPS_PER_EPOCH)
    rates = []
    for step in range(recipe.epochs * STEPS_PER_EPOCH + 1):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_the_rate_after_some_epochs_is_that_of_the_next_step() -> None:
    recipe = Recipe(lr=0.1, min_lr=1e-4, warmup_epochs=1, epochs=4)
    every = rates(recipe)
    for epochs in range(5):
        expected = every[epochs * STEPS_PER_EPOCH]
        assert rate_after(recipe, epochs) == pytest.approx(expected)


def test_the_bounds_gradient_is_measured_against_cross_entropys(
    batch: tuple[Tensor, Tensor, Tensor, Tensor], bottleneck: StreamingBottleneck
) -> None:
    images, labels, _, features = batch
    classifier = nn.Linear(DIM, CLASSES)
    cross_entropy = F.cross_entropy(classifier(features), labels, label_smoothing=0.2)
    (of_labels,) = torch.autograd.grad(cross_entropy, features)
    (of_bound,) = torch.autograd.grad(bottleneck(features, labels, images), features)
    before = bottleneck.pending.clone()
    ratio = Objective(recipe(1.0), bottleneck).ib_gradient_ratio(
        classifier, features, labels, images
    )
    assert ratio > 0
    assert torch.equal(bottleneck.pending, before)
    assert classifier.weight.grad is None
    torch.testing.assert_close(ratio, 0.5 * of_bound.norm() / of_labels.norm())


def test_the_rate_rises_linearly_then_falls_along_a_cosine() -> None:
    got = rates(Recipe(epochs=5, lr=0.1, min_lr=0.02, warmup_epochs=1.5))
    warmup, total = 15, 50
    for step in range(warmup):
        assert got[step] == pytest.approx(0.02 + 0.08 * step / warmup)
    assert got[warmup] == pytest.approx(0.1)
    assert max(got) == pytest.approx(0.1)
    assert got[warmup:] == sorted(got[warmup:], reverse=True)
    quarter = warmup + (total - warmup) // 4  # not quite a quarter, so not quite 1 + sqrt(1/2)
    cosine = torch.tensor(torch.pi * (quarter - warmup) / (total - warmup)).cos().item()
    assert got[quarter] == pytest.approx(0.02 + 0.04 * (1 + cosine))
    assert got[total - 1] > 0.02
    assert got[total] == pytest.approx(0.02)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    got = rates(Recipe(epochs=2, lr=0.1, min_lr=0.0))
    assert got[0] == pytest.approx(0.1)
    assert got[-1] == pytest.approx(0.0, abs=1e-12)


def test_warm_up_may_last_for_all_epochs() -> None:
    got = rates(Recipe(epochs=2, lr=0.1, min_lr=0.0, warmup_epochs=2))
    assert got[:20] == sorted(got[:20])
    assert got[19] == pytest.approx(0.1 * 19 / 20)


# --- the optimizer


def test_biases_and_norms_carry_no_weight_decay() -> None:
    model = ltm.create_model("vit_nano_patch4_32", image_size=32, num_classes=CLASSES)
    optimizer = build_optimizer(model, Recipe(weight_decay=0.05, lr=0.1))
    decay = {
        parameter: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decay.keys() == set(model.parameters())
    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm)
    checked = 0
    for name, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            if isinstance(module, kinds):
                spared = kind == "bias" or isinstance(module, nn.LayerNorm)
                assert decay[parameter] == (0 if spared else 0.05), f"{name}.{kind}"
                checked += 1
    assert checked > 40


def test_the_job_names_the_optimizer() -> None:
    model = nn.Linear(2, 2)
    assert type(build_optimizer(model, Recipe(optimizer="sgd"))) is torch.optim.SGD
    assert type(build_optimizer(model, Recipe(optimizer="adamw"))) is torch.optim.AdamW


def one_of_each_kind() -> list[str]:
    """A name for each of timm's classes of optimizers, and one that is cautious."""
    kinds = {get_optimizer_info(name).opt_class: name for name in reversed(list_optimizers())}
    on_gpus = {name for name in kinds.values() if name.startswith(("fused", "bnb"))}
    second_order, compiled = {"adahessian"}, {"kron"}
    return sorted(({*kinds.values()} - on_gpus - second_order - compiled) | {"cadamw"})


@pytest.mark.parametrize("optimizer", one_of_each_kind())
def test_optimizers_that_may_have_tensors_in_pieces_are_known(optimizer: str) -> None:
    whole, pieces = (weights_after_steps(optimizer, pieces) for pieces in (1, 2))
    apart = (whole - pieces).abs().max()
    assert is_elementwise(optimizer) == bool(apart < 1e-5), f"{apart} apart"


def weights_after_steps(optimizer: str, pieces: int) -> Tensor:
    """A matrix [64, 48] after some steps of an optimizer that has it in so many flat pieces."""
    random = torch.Generator().manual_seed(0)
    weights, *gradients = torch.randn(4, 64, 48, generator=random)
    # At right angles to the weights, row by row: some optimizers then project.
    direction = F.normalize(weights, dim=1)
    gradients[0] -= (gradients[0] * direction).sum(1, keepdim=True) * direction

    def cut(tensor: Tensor) -> tuple[Tensor, ...]:
        return tensor.flatten().chunk(pieces) if pieces > 1 else (tensor,)

    parameters = [nn.Parameter(piece.clone()) for piece in cut(weights)]
    stepper = create_optimizer_v2(parameters, opt=optimizer, lr=0.01, weight_decay=0.05)
    for gradient in gradients:
        for parameter, piece in zip(parameters, cut(gradient), strict=True):
            parameter.grad = piece.clone()
        stepper.step()
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def test_layers_learn_the_slower_the_earlier_they_are() -> None:
    model = ltm.create_model("vit_nano_patch4_32", image_size=32, num_classes=CLASSES)
    recipe = Recipe(lr=0.1, layer_decay=0.5, epochs=2)
    optimizer = build_optimizer(model, recipe)
    build_schedule(optimizer, recipe, recipe.epochs * STEPS_PER_EPOCH).step_update(0)
    rate = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(model.named_parameters())
    got = [rate[names[f"blocks.{i}.attn.qkv.weight"]] for i in range(4)]
    assert got == pytest.approx([got[3] / 8, got[3] / 4, got[3] / 2, got[3]])
    assert rate[names["patch_embed.proj.2.weight"]] == pytest.approx(got[0] / 2)
    full = {rate[p] for name, p in names.items() if name.startswith(("head", "method"))}
    assert full == {max(rate.values())} == {0.1}


def test_what_is_frozen_is_not_optimized() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    optimizer = build_optimizer(model, Recipe())
    assert [p for group in optimizer.param_groups for p in group["params"]] == [model.weight]


def test_mixed_images_are_learned_by_their_shares(
    batch: tuple[Tensor, Tensor, Tensor, Tensor], bottleneck: StreamingBottleneck
) -> None:
    images, labels, logits, features = batch
    shares = 0.7 * F.one_hot(labels, CLASSES) + 0.3 * F.one_hot(labels.flip(0), CLASSES)
    objective = Objective(recipe(0.0), bottleneck)
    _, parts = objective(images, shares, logits, features, 5)
    one, other = (
        F.cross_entropy(logits, of, label_smoothing=0.2) for of in (labels, labels.flip(0))
    )
    expected = 0.7 * one + 0.3 * other
    bound = bottleneck(features, labels, images)
    torch.testing.assert_close(parts[1:3], torch.stack([expected, bound]).detach())


def test_momentum_is_that_of_the_recipe() -> None:
    model = ltm.create_model("vit_nano_patch4_32", "tome", num_classes=5)
    for momentum in (0.0, 0.5):
        optimizer = build_optimizer(model, Recipe(optimizer="momentum", momentum=momentum))
        assert {group["momentum"] for group in optimizer.param_groups} == {momentum}
    assert build_optimizer(model, Recipe(optimizer="adamw", momentum=0.5)).defaults["lr"] == 2e-4


def test_a_method_has_its_own_rates_and_may_learn_alone() -> None:
    model = ltm.create_model("vit_nano_patch4_32", "ltmp", num_classes=5)
    freeze_backbone(model)
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learned) == 2 * 4
    assert all(name.startswith("method.") for name in learned)
    settings = Recipe(epochs=10, warmup_epochs=0, lr=5e-3, min_lr=0.0)
    optimizer = build_optimizer(model, settings)
    build_schedule(optimizer, settings, settings.epochs * STEPS_PER_EPOCH).step_update(0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name in learned:
            expected = 5e-6 if "prune" in name else 5e-3
            assert rates[id(parameter)] == pytest.approx(expected), name


# --- the rate of the backbone


def rates_of_parts(recipe: Recipe) -> tuple[list[float], list[float], dict[str, list[float]]]:
    """By step the rates of a method and of its backbone, and that of every parameter."""
    model = ltm.create_model("vit_nano_patch4_32", "dynamicvit", num_classes=CLASSES)
    optimizer = build_optimizer(model, recipe)
    schedule = build_schedule(optimizer, recipe, recipe.epochs * STEPS_PER_EPOCH)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates: dict[str, list[float]] = {name: [] for name in names.values()}
    for step in range(recipe.epochs * STEPS_PER_EPOCH):
        schedule.step_update(step)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                rates[names[id(parameter)]].append(group["lr"])
    of_method = {tuple(rate) for name, rate in rates.items() if name.startswith("method.")}
    assert len(of_method) == 1
    return list(of_method.pop()), rates["blocks.3.mlp.fc1.weight"], rates


@pytest.mark.parametrize("constant", [False, True])
def test_the_backbone_stands_still_and_then_learns_at_its_share(constant: bool) -> None:
    slow = BackboneRate(share=0.01, frozen_epochs=1.5, constant=constant)
    recipe = Recipe(epochs=5, lr=0.1, min_lr=1e-4, warmup_epochs=1, backbone=slow)
    of_method, of_backbone, rates = rates_of_parts(recipe)
    plain = Recipe(epochs=5, lr=0.1, min_lr=1e-4, warmup_epochs=1)
    assert of_method == pytest.approx(rates_of_parts(plain)[0])
    assert of_backbone[:15] == [0.0] * 15
    expected = [min(0.001, rate) if constant else 0.01 * rate for rate in of_method[15:]]
    assert of_backbone[15:] == pytest.approx(expected)
    assert of_backbone[15] == pytest.approx(0.01 * (0.1 if constant else of_method[15]))
    for name, rate in rates.items():
        assert rate == (of_method if name.startswith("method.") else of_backbone), name


def test_a_constant_rate_is_never_above_that_of_the_method() -> None:
    recipe = Recipe(epochs=5, lr=0.1, min_lr=0.0, backbone=BackboneRate(share=0.5, constant=True))
    of_method, of_backbone, _ = rates_of_parts(recipe)
    assert of_backbone[0] == pytest.approx(0.05)
    assert of_backbone[-1] == of_method[-1] < 0.01


def test_layers_of_a_slow_backbone_learn_the_slower_the_earlier_they_are() -> None:
    slow = BackboneRate(share=0.1, constant=True)
    rates = rates_of_parts(Recipe(epochs=5, lr=0.1, layer_decay=0.5, backbone=slow))[2]
    got = [rates[f"blocks.{i}.attn.qkv.weight"][7] for i in range(4)]
    assert got == pytest.approx([got[3] / 8, got[3] / 4, got[3] / 2, got[3]])
    assert rates["head.weight"][7] == pytest.approx(0.01)


def test_a_backbone_that_stands_still_keeps_its_weights_to_the_bit() -> None:
    torch.manual_seed(0)
    model = ltm.create_model("vit_nano_patch4_32", "dynamicvit", num_classes=CLASSES).train()
    slow = BackboneRate(share=0.01, frozen_epochs=1)
    recipe = Recipe(epochs=2, lr=1e-3, weight_decay=0.05, backbone=slow)
    optimizer = build_optimizer(model, recipe)
    schedule = build_schedule(optimizer, recipe, 4)
    changed = []
    for step in range(4):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        schedule.step_update(step)
        model(torch.randn(4, 3, 32, 32)).square().mean().backward()
        optimizer.step()
        changed.append({n for n, p in model.named_parameters() if not torch.equal(p, before[n])})
    methods = {name for name, _ in model.named_parameters() if name.startswith("method.")}
    assert changed[0] | changed[1] <= methods
    assert changed[2] - methods
    assert changed[0]


@pytest.mark.parametrize("method", ["none", "tome"])
def test_nothing_stands_back_for_a_method_without_weights(method: str) -> None:
    model = ltm.create_model("vit_nano_patch4_32", method, num_classes=CLASSES)
    with pytest.raises(FieldError, match=f"model.method is '{method}', which has no weights"):
        check_method_learns(model)
    check_method_learns(ltm.create_model("vit_nano_patch4_32", "spvit", num_classes=CLASSES))
