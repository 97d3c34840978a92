"""What torch does with every timm network it does with one whose tokens merge, by any method."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

import ltm
from ltm.backbones import find_backbone
from ltm.methods import grids

from ...marks import fast_only

NETS = ("vit_nano_patch4_32", "swin_nano_patch2_window4_32")
FAST = ("ltm", "tome", "topk", "sinkhorn")  # each sort of merge once
PAIRS = [
    (net, method)
    for net in NETS
    for method in (ltm.list_token_methods() if net == NETS[0] else (*FAST, "dtem", "dpcknn"))
    if not (find_backbone(net)[1].needs_grid and grids(method) == "refused")
]
# weights have no gradient by the tokens, as published: g is not that of the whole function
STOPPED = (
    ("vit_nano_patch4_32", "mctf"),
    ("swin_nano_patch2_window4_32", "dtem"),
)
taken = pytest.mark.parametrize(
    ("backbone", "method"),
    [pytest.param(*pair, marks=() if pair[1] in FAST else pytest.mark.slow) for pair in PAIRS],
)


def create(backbone: str, method: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    model = ltm.create_model(backbone, method, compression_ratio=0.6, num_classes=5)
    return model.double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)


@taken
def test_a_copy_after_a_training_pass_has_no_graph_and_computes_the_same(
    backbone: str, method: str
) -> None:
    model, x = create(backbone, method)
    logits = model.train()(x)
    copied = deepcopy(model)
    loss = logits.square().mean() + sum(model.method.loss_terms().values())
    loss.backward()  # the graph of the original is whole
    with torch.no_grad():
        assert torch.equal(copied.eval()(x), model.eval()(x))
    assert {*copied.state_dict()} == {*model.state_dict()}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning:torch")
@taken
def test_gradients_have_gradients_and_tangents(backbone: str, method: str) -> None:
    """Against each other, and against a difference: d/dt of |grad f(x + t v)|^2 at t = 0."""
    model, x = create(backbone, method)
    v = torch.randn_like(x)

    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(model(x).square().sum(), x)
        return g

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has first derivatives alone
        leaf = x.clone().requires_grad_()
        value = model(leaf).square().sum()
        (g,) = torch.autograd.grad(value, leaf, create_graph=True)
        (of_g,) = torch.autograd.grad(g.square().sum(), leaf)
        t = 1e-6
        slope = (gradient(x + t * v).square().sum() - gradient(x - t * v).square().sum()) / (2 * t)
        with forward_ad.dual_level():
            y = model(forward_ad.make_dual(x, v)).square().sum()
            tangent = forward_ad.unpack_dual(y).tangent
    if (backbone, method) not in STOPPED:
        torch.testing.assert_close((of_g * v).sum(), slope, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(tangent, (g * v).sum())


@pytest.mark.parametrize("method", ltm.list_token_methods())
@pytest.mark.parametrize("training", [False, True])
def test_a_batch_of_0_is_taken_as_timms_vit_takes_it(method: str, training: bool) -> None:
    model, x = create("vit_nano_patch4_32", method)
    y = model.train(training)(x[:0])
    assert y.shape == (0, 5)
    y.sum().backward()


@pytest.mark.parametrize("method", ltm.list_token_methods())
def test_a_plan_is_refused_when_it_is_set_or_carried_out(method: str) -> None:
    plans: list[dict[str, Any]] = [{"blocks.0": 1}, {"blocks.1": 63}, {"blocks.3": 20}]
    plans += [{"blocks.0": 20, "blocks.2": 19}, {"blocks.0": (3, 7)}, {"blocks.2": (8, 5)}]
    for plan in plans:
        try:
            model = ltm.create_model("vit_nano_patch4_32", method, plan=plan, num_classes=5)
        except ltm.FieldError:
            continue
        x = torch.randn(2, 3, 32, 32)
        assert model(x).shape == model.eval()(x).shape == (2, 5)


@pytest.mark.parametrize("method", [m for m in ltm.list_methods() if m != "none"])
@pytest.mark.parametrize("dtype", fast_only([torch.float16, torch.float64], [torch.float16]))
def test_count_is_the_same_in_any_precision_wrapped_or_of_another_depth_of_colour(
    method: str, dtype: torch.dtype
) -> None:
    options: dict[str, Any] = {"compression_ratio": 0.7, "num_classes": 5}
    model: Any = ltm.create_model("vit_nano_patch4_32", method, **options)
    expected = ltm.count(model)
    assert ltm.count(torch.nn.DataParallel(deepcopy(model).to(dtype))) == expected
    grey = ltm.create_model("vit_nano_patch4_32", method, in_chans=1, **options)
    assert 0.5 * expected.gmacs < ltm.count(grey).gmacs < expected.gmacs
