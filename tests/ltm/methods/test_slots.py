"""PatchMerger, SiT and Sinkhorn: as their formulas say, and made for one number of slots."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import ltm
from ltm.create import load_checkpoint

from .written_out import CLASSY, POOLED, State, create, network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

METHODS = ["patchmerger", "sit", "sinkhorn"]
TINY = "vit_nano_patch4_32"

methods = pytest.mark.parametrize("method", METHODS)


def layer_norm(x: Tensor, norm: Any) -> Tensor:
    """One token [D]."""
    centred = x - x.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def weighted(weights: list[Tensor], tokens: list[Tensor]) -> Tensor:
    total = torch.zeros_like(tokens[0])
    for weight, token in zip(weights, tokens, strict=True):
        total = total + weight * token
    return total


def softmax(logits: list[Tensor]) -> list[Tensor]:
    top = max(float(logit) for logit in logits)
    powers = [(logit - top).exp() for logit in logits]
    return [power / sum(powers) for power in powers]


def patchmerger(tokens: Tensor, weights: Any) -> Tensor:
    normed = [layer_norm(x, weights.norm) for x in tokens]
    return torch.stack(
        [weighted(softmax([q.dot(x) for x in normed]), normed) for q in weights.queries]
    )


def sit(tokens: Tensor, weights: Any) -> Tensor:
    logits = []
    for x in tokens:
        hidden = weights.hidden.weight @ layer_norm(x, weights.norm) + weights.hidden.bias
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        logits.append(weights.scale * (weights.weigh.weight @ hidden + weights.weigh.bias))
    slots = len(weights.weigh.weight)
    return torch.stack(
        [weighted(softmax([each[p] for each in logits]), [*tokens]) for p in range(slots)]
    )


def sinkhorn(tokens: Tensor, weights: Any) -> Tensor:
    """Scaled by factors a of slots and b of tokens, not in log space."""
    unit = [x / x.norm() for x in tokens]
    centres = [c / c.norm() for c in weights.centres]
    K = torch.stack([torch.stack([x.dot(c) for c in centres]) for x in unit]).exp()
    N, P = K.shape
    a, b = K.new_ones(P), K.new_ones(N)
    for _ in range(3):
        a = torch.stack([1 / sum(K[n, p] * b[n] for n in range(N)) for p in range(P)])
        b = torch.stack([1 / sum(K[n, p] * a[p] for p in range(P)) for n in range(N)])
    shares = [[K[n, p] * a[p] * b[n] for n in range(N)] for p in range(P)]
    return torch.stack([weighted(share, unit) for share in shares])


INDEPENDENT: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "patchmerger": patchmerger,
    "sit": sit,
    "sinkhorn": sinkhorn,
}


@methods
@pytest.mark.parametrize(
    ("backbone", "size", "blocks"),
    [(CLASSY, 80, (3, 6, 9)), (POOLED, 16, (1, 2, 3))],
    ids=["class token", "no class token"],
)
@torch.no_grad()
def test_the_network_is_that_of_the_formula(
    method: str, backbone: str, size: int, blocks: tuple[int, ...]
) -> None:
    """Slots are made token by token before blocks."""
    model, images = create(backbone, method, image_size=size, compression_ratio=0.7)
    for parameter in model.method.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    kept: list[int] = []

    def make_slots(s: State) -> None:
        if s.block in blocks:
            slots = INDEPENDENT[method](s.tokens, model.method.at[f"blocks_{s.block}"])
            s.x = torch.cat([s.x[: s.prefix], slots])
            kept.append(len(slots))

    each = [network(model, x, make_slots, at_input=True, proportional=False) for x in images]
    N = model.patch_embed.num_patches
    assert kept == [round(N * 0.7**k) for k in (1, 2, 3)] * len(images)
    assert [*model.plan.values()] * len(images) == kept
    expected = torch.stack([result.logits for result in each])
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-9)


@torch.no_grad()
def test_sinkhorn_shares_out_every_token() -> None:
    """With many rounds every slot has the same mass, too."""
    model: Any = ltm.create_model(TINY, "sinkhorn", plan={"blocks.1": 16}, rounds=100, eps=0.1)
    merges = []
    model.method.register_forward_hook(lambda _m, _args, merge: merges.append(merge))
    model(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(merges[0].weights().sum(2), torch.ones(2, 64))
    torch.testing.assert_close(merges[0].sizes(), torch.full((2, 16), 4.0), rtol=1e-3, atol=0)


@methods
def test_another_plan_makes_weights_anew_until_they_were_used(method: str) -> None:
    model: Any = ltm.create_model(TINY, method, compression_ratio=0.8)
    own = dict(model.method.named_parameters())
    model.set_compression(0.8)
    assert all(x is own[name] for name, x in model.method.named_parameters())
    model.set_compression(0.5)
    ltm.count(model)
    model.set_compression({"blocks.2": 20})
    assert model.method.made == {"blocks.2": 20}
    assert {"method.at.blocks_2"} == {
        ".".join(name.split(".")[:3]) for name, _ in model.named_parameters() if "method" in name
    }
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.eval()(x)
        with pytest.raises(ltm.FieldError, match=r"plan keeps 51 tokens at blocks.1, .*20"):
            model.set_compression(0.8)
        with pytest.raises(ltm.FieldError, match=r"plan keeps 21 tokens at blocks.2, .*20"):
            model.set_compression({"blocks.2": 21})
        torch.testing.assert_close(model(x), expected)
        model.set_compression(1)
        assert not model(x).equal(expected)
        model.set_compression({"blocks.2": 20})
        torch.testing.assert_close(model(x), expected)


@methods
def test_a_copy_knows_what_was_used(method: str) -> None:
    model: Any = ltm.create_model(TINY, method, compression_ratio=0.6)
    unused = copy.deepcopy(model)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    used = copy.deepcopy(model)
    with pytest.raises(ltm.FieldError, match="has weights for"):
        used.set_compression(0.5)
    unused.set_compression(0.5)
    assert model.plan == used.plan != unused.plan


@methods
def test_what_was_loaded_stays(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained: Any = ltm.create_model(TINY, method, compression_ratio=0.6).eval()
    whole, backbone = tmp_path / "whole.pt", tmp_path / "backbone.pt"
    torch.save(trained.state_dict(), whole)
    base = ltm.create_model(TINY, "none").state_dict()
    torch.save(base, backbone)

    model: Any = ltm.create_model(TINY, method, compression_ratio=0.6, checkpoint=whole).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), trained(x))
    for load in (load_checkpoint, lambda m, path: m.load_state_dict(torch.load(path))):
        model = ltm.create_model(TINY, method, compression_ratio=0.6)
        load(model, whole)
        with pytest.raises(ltm.FieldError, match="has weights for"):
            model.set_compression(0.7)

    other: Any = ltm.create_model(TINY, method, compression_ratio=0.8)
    with pytest.raises(ltm.FieldError, match=r"keeps 51 tokens at blocks\.1, but the weights are"):
        load_checkpoint(other, whole)
    load_checkpoint(other, backbone)  # the method starts as it is, for any plan yet
    other.set_compression(0.5)
    assert other.plan == {"blocks.1": 32, "blocks.2": 16, "blocks.3": 8}


@methods
def test_a_budget_gives_the_number_of_slots(method: str) -> None:
    most = ltm.count(ltm.create_model(TINY, "none")).gmacs
    model: Any = ltm.create_model(TINY, method, target_gmacs=0.7 * most)
    assert ltm.count(model).gmacs == pytest.approx(0.7 * most, rel=0.02)
    assert ltm.count(model).gmacs <= 0.7 * most
    assert model.method.made == model.plan
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 1000)


@methods
def test_another_image_size_is_refused_once_used(method: str) -> None:
    model: Any = ltm.create_model(TINY, method, compression_ratio=0.5)
    model.set_input_size(48)
    assert [*model.plan.values()] == [72, 36, 18]
    model(torch.randn(1, 3, 48, 48))
    with pytest.raises(ltm.FieldError, match="image_size cannot become 32 x 32"):
        model.set_input_size(32)
    assert model(torch.randn(1, 3, 48, 48)).shape == (1, 1000)


@methods
def test_a_grid_in_a_plan_is_refused(method: str) -> None:
    with pytest.raises(ltm.FieldError, match=r"\(6, 5\) at blocks.1, but .* keeps no grid"):
        ltm.create_model(TINY, method, plan={"blocks.1": (6, 5)})


@pytest.mark.slow
@methods
def test_a_network_compiles_as_a_whole_and_once(method: str) -> None:
    torch.manual_seed(0)
    model: Any = ltm.create_model(TINY, method, compression_ratio=0.5)
    x = torch.randn(2, 3, 32, 32)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    logits = compiled(x)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(x), logits)
    torch.testing.assert_close(model(x), logits)
    with pytest.raises(ltm.FieldError, match="has weights for"):
        model.set_compression(0.6)


@methods
def test_weights_follow_the_networks_device_and_type(method: str) -> None:
    model: Any = ltm.create_model(TINY, method, compression_ratio=0.5).to(torch.bfloat16)
    model.set_compression(0.6)
    assert {x.dtype for x in model.parameters()} == {torch.bfloat16}
    assert model(torch.randn(2, 3, 32, 32).bfloat16()).isfinite().all()
    with torch.device("meta"):
        model = ltm.create_model(TINY, method, compression_ratio=0.5)
        model.set_compression(0.6)
    assert {x.device.type for x in model.parameters()} == {"meta"}
