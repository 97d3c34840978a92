"""Plain vision transformers: the base model stays reachable, and merging changes only its part."""

import pytest
import timm
import torch
from torch import nn

import ltm
from ltm.interfaces import Kept
from ltm.merge import Merge

TINY = "vit_nano_patch4_32"


def images(n: int = 2, size: int = 32) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n, 3, size, size)


def merges_of(model: nn.Module, x: torch.Tensor) -> list[Merge]:
    seen: list[Merge] = []
    method: nn.Module = model.method  # type: ignore[assignment]
    handle = method.register_forward_hook(lambda _m, _args, merge: seen.append(merge))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen


@pytest.mark.parametrize(
    "backbone", [TINY, "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"]
)
def test_keep_ratio_1_is_exactly_the_base_model(backbone: str) -> None:
    size = {TINY: 32, "vit_tiny_patch16_224": 64}.get(backbone, 56)
    base = timm.create_model(backbone, num_classes=5, img_size=size).eval()
    model = ltm.create_model(backbone, compression_ratio=1, num_classes=5, image_size=size).eval()
    missing, unexpected = model.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected
    assert all(key.startswith("method.") for key in missing)
    x = images(size=size)
    with torch.no_grad():
        assert torch.equal(model(x), base(x))


def test_method_none_is_timms_own_model() -> None:
    model = ltm.create_model(TINY, "none", num_classes=5)
    assert type(model) is type(timm.create_model(TINY))


@pytest.mark.parametrize("kept", [32, (8, 4)])
def test_merged_tokens_are_convex_combinations(kept: Kept) -> None:
    model = ltm.create_model(TINY, plan={"blocks.0": kept})
    with torch.no_grad():
        model.method.masks["64"].step.omega.normal_()  # type: ignore[union-attr,index]
    (merge,) = merges_of(model, images())
    G = merge.weights()
    assert G.shape[:2] == (2, 64)
    assert (G >= 0).all()
    torch.testing.assert_close(G.sum(1), torch.ones(2, merge.slots))


def test_a_new_model_is_a_plain_merge_and_its_step_learns() -> None:
    model = ltm.create_model(TINY, compression_ratio=0.5, num_classes=5)
    (merge,) = merges_of(model, images())
    mask = model.method.masks["64"]  # type: ignore[union-attr,index]
    with torch.no_grad():
        mask.step.codes.mul_(3)
    torch.testing.assert_close(merges_of(model, images())[0].weights(), merge.weights())
    nn.functional.cross_entropy(model(images()), torch.tensor([0, 1])).backward()
    assert (mask.step.omega.grad.abs() > 0).all()
    assert mask.project.weight.grad[-1].abs().sum() > 0, "the saliency does not learn"


def test_masks_depend_on_the_image() -> None:
    (merge,) = merges_of(ltm.create_model(TINY, compression_ratio=0.5), images())
    assert not torch.equal(merge.weights()[0], merge.weights()[1])


def test_token_counts_follow_the_plan() -> None:
    plan = {"blocks.0": 40, "blocks.2": 10}
    model = ltm.create_model(TINY, plan=plan)
    assert model.plan == plan
    assert model.forward_features(images()).shape == (2, 10, 64)  # type: ignore[operator]
    assert [merge.slots for merge in merges_of(model, images())] == [40, 10]


def test_prefix_tokens_pass_by() -> None:
    model = ltm.create_model("vit_small_patch14_reg4_dinov2", plan={"blocks.0": 9}, image_size=56)
    assert model.forward_features(images(size=56)).shape == (2, 5 + 9, 384)  # type: ignore[operator]


def test_a_state_dict_makes_the_same_model_again() -> None:
    a, b = (ltm.create_model(TINY, compression_ratio=0.6).eval() for _ in range(2))
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        assert torch.equal(a(images()), b(images()))
