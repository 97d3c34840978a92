"""What every method that reduces tokens has to keep, on every family of backbones."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ltm
from ltm.backbones import find_backbone
from ltm.methods import grids

from ..declared import assert_declared
from ..networks import SIZES

if TYPE_CHECKING:
    from ltm.interfaces import SiteInput
    from ltm.merge import Merge

TOKEN_METHODS = ltm.list_token_methods()
# merged tokens that are means weighted by size, and nothing else
MEANS = ["tome", "pitome", "dtem"]

FAST = ["vit_nano_patch4_32", "swin_nano_patch2_window4_32"]

methods = pytest.mark.parametrize("method", TOKEN_METHODS)


def pairs(backbones: Iterable[str], *, refused: bool = False) -> list[Any]:
    """Backbones with every method that they take, or that they refuse."""
    return [
        pytest.param(backbone, method, marks=() if backbone in FAST else pytest.mark.slow)
        for backbone in backbones
        for method in TOKEN_METHODS
        if refused == (grids(method) == "refused" and find_backbone(backbone)[1].needs_grid)
    ]


taken = pytest.mark.parametrize(("backbone", "method"), pairs(SIZES))


def create(backbone: str, method: str, ratio: float | None = 0.6) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    size = SIZES[backbone]
    model = ltm.create_model(
        backbone, method, compression_ratio=ratio, image_size=size, num_classes=5
    )
    return model, torch.randn(3, 3, size, size)


@pytest.mark.parametrize(("backbone", "method"), pairs(FAST))
@pytest.mark.parametrize("training", [False, True])
def test_a_network_in_float64_merges_in_float64(backbone: str, method: str, training: bool) -> None:
    model, x = create(backbone, method)
    merges: list[Merge] = []
    model.double().train(training).method.register_forward_hook(
        lambda _m, _args, merge: merges.append(merge)
    )
    logits = model(x.double())
    assert logits.dtype == torch.float64
    assert merges
    for merge in merges:
        G = merge.weights()
        assert G is not None
        assert G.dtype == torch.float64
    logits.square().sum().backward()


@taken
def test_runs_learns_and_does_not_mix_images(backbone: str, method: str) -> None:
    model, x = create(backbone, method)
    with torch.no_grad():
        whole = model.eval()(x)
        torch.testing.assert_close(model(x.flip(0)), whole.flip(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model(x[1:2]), whole[1:2], atol=1e-5, rtol=1e-4)
    y = model.train()(x)
    terms: dict[str, torch.Tensor] = model.method.loss_terms()
    (y.square().mean() + sum(terms.values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert ltm.count(model).gmacs < ltm.count(create(backbone, method, 1.0)[0]).gmacs


@pytest.mark.parametrize(("backbone", "method"), pairs(["vit_nano_patch4_32", "mobilevit_xxs"]))
def test_what_is_computed_again_has_the_same_gradients(backbone: str, method: str) -> None:
    gradients: list[list[torch.Tensor]] = []
    for checkpointing in (False, True):
        model, x = create(backbone, method)
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(1)  # a decision by chance is the same one
        loss = model.train()(x).square().mean()
        loss = loss + sum(model.method.loss_terms().values())
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


@taken
def test_ratio_1_is_the_base_model(backbone: str, method: str) -> None:
    model, x = create(backbone, method, 1.0)
    base = ltm.create_model(backbone, "none", image_size=SIZES[backbone], num_classes=5)
    base.load_state_dict({k: v for k, v in model.state_dict().items() if k in base.state_dict()})
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), base.eval()(x), atol=1e-5, rtol=1e-4)
    assert model.plan == {}


@taken
def test_merges_are_what_they_say_they_are(backbone: str, method: str) -> None:
    """`Merge.convex`, `Merge.linear` and `Merge.keeps_mass`, whatever the method declares."""
    model, x = create(backbone, method, 0.5)
    seen: list[tuple[SiteInput, Merge]] = []
    model.method.register_forward_hook(lambda _m, args, merge: seen.append((args[0], merge)))
    with torch.no_grad():
        model.eval()(x)
    assert seen
    for given, merge in seen:
        assert_declared(given, merge)
        if not model.method.varies:
            assert merge.slots == given.site.slots
            assert merge.present is None


@pytest.mark.parametrize(("backbone", "method"), pairs(SIZES, refused=True))
def test_what_keeps_no_grid_is_refused_with_the_reason(backbone: str, method: str) -> None:
    with pytest.raises(ltm.FieldError, match=r"keeps no grid: .{20}") as caught:
        create(backbone, method)
    assert (caught.value.field, caught.value.value) == ("method", method)


@pytest.mark.parametrize("method", MEANS)
def test_the_mean_weighted_by_size_is_kept(method: str) -> None:
    model, x = create("vit_nano_patch4_32", method, 0.4)
    means: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_module: Any, args: Any, merge: Any) -> None:
        tokens, mass = args[0].tokens, args[0].mass
        mass = torch.ones(tokens.shape[:2]) if mass is None else mass
        before = (tokens * mass[..., None]).sum(1)
        after = (merge(tokens) * merge.sizes(mass)[..., None]).sum(1)
        means.append((before, after))

    model.method.register_forward_hook(note)
    with torch.no_grad():
        model.eval()(x)
    assert len(means) == 4
    for before, after in means:
        torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_a_token_that_stands_for_two_is_attended_as_two() -> None:
    """Proportional attention, softmax(Q K^T / sqrt(d) + log s), in the blocks after a merge."""
    model, x = create("vit_nano_patch4_32", "tome")
    block = model.eval().blocks[2]
    a, b, c = torch.randn(3, 1, 1, 64)
    sizes = torch.tensor([[1.0, 2.0, 1.0]])
    with torch.no_grad():
        merged = block(torch.cat([a, b, c], 1), log_sizes=sizes.log())
        masked = block(torch.cat([a, b, c], 1), sizes.log()[:, None, None])
        whole = block(torch.cat([a, b, b, c], 1))
    torch.testing.assert_close(merged, whole[:, [0, 1, 3]])
    torch.testing.assert_close(masked, merged)

    carried: list[torch.Tensor] = []
    known: list[Any] = []
    model.method.register_forward_hook(
        lambda _m, args, merge: carried.append(merge.sizes(args[0].mass))
    )
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda _m, args: known.append(args[6]))
    with torch.no_grad():
        model(x)
    assert known[0] is None
    for log_sizes, size in zip(known[1:], carried[:-1], strict=True):
        torch.testing.assert_close(log_sizes, size.log())


@methods
def test_the_class_token_never_merges(method: str) -> None:
    """Only the tokens of the image reach the method, in training and outside."""
    torch.manual_seed(0)
    model: Any = ltm.create_model(
        "vit_tiny_patch16_224", method, compression_ratio=0.6, image_size=64, num_classes=3
    )
    counts: list[int] = []
    model.method.register_forward_hook(lambda _m, args, _o: counts.append(args[0].tokens.shape[1]))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = model.eval().forward_features(x)
        if not model.method.varies:
            assert tokens.shape[1] == 1 + list(model.sites.values())[-1].slots
        model.train().forward_features(x)
    assert counts[0] == 16
    assert len(counts) == 2 * len(model.sites)


@pytest.mark.parametrize("method", [m for m in TOKEN_METHODS if m in {"dtem", "ltmp"}])
def test_a_soft_merge_removes_nothing_and_its_masses_decide(method: str) -> None:
    model, x = create("vit_nano_patch4_32", method)
    seen: list[Any] = []
    model.method.register_forward_hook(lambda _m, _a, merge: seen.append(merge))
    model.train()(x)
    assert seen
    assert all(merge.slots >= 64 for merge in seen)
    assert all((merge.sizes() > 0).all() for merge in seen)
