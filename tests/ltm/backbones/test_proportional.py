"""Proportional attention: the same with a mask and with appended channels, wherever it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import ltm
from ltm.backbones._transformer.proportional import (
    appending_is_faster,
    channels_appended,
    proportional_attention,
)
from ltm.methods import build_method

from ..test_export import assert_onnx_equals
from . import toys
from .conftest import images, with_method

if TYPE_CHECKING:
    from pathlib import Path

TINY = "vit_nano_patch4_32"
PLAN = {"blocks.0": 30, "blocks.1": 12}
HALF = (torch.bfloat16, torch.float16)


def heads(batch: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys and values [batch, 3, 37, width], and log sizes of 1 to 60 [batch, 37]."""
    generator = torch.Generator().manual_seed(width)
    q, k, v = (
        torch.randn(batch, 3, 37, width, generator=generator).to(dtype).requires_grad_()
        for _ in range(3)
    )
    sizes = torch.randint(1, 60, (batch, 37), generator=generator)
    return q, k, v, sizes.to(torch.promote_types(dtype, torch.float32)).log().requires_grad_()


def noise(dtype: torch.dtype) -> dict[str, float]:
    """Two roundings of what is about 1."""
    return {"rtol": 0, "atol": 2e-6 if dtype not in HALF else 2 * torch.finfo(dtype).eps}


def both(parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    scale = parts[0].shape[-1] ** -0.5
    q, k, v, log_sizes = parts
    masked, appended = (
        proportional_attention(q, k, v, log_sizes, scale=scale, appended=form)
        for form in (False, True)
    )
    return masked, appended


@pytest.mark.parametrize("width", [20, 32, 64])
@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, *HALF])
def test_channels_give_what_a_mask_gives(batch: int, width: int, dtype: torch.dtype) -> None:
    masked, appended = both(heads(batch, width, dtype))
    assert appended.dtype == masked.dtype == dtype
    torch.testing.assert_close(appended, masked, **noise(dtype))


@pytest.mark.parametrize("dtype", HALF)
def test_in_half_precision_channels_are_no_less_exact_than_a_mask(dtype: torch.dtype) -> None:
    parts = heads(4, 64, dtype)
    exact, _ = both(tuple(part.double() for part in parts))
    masked, appended = ((y.double() - exact).abs().mean() for y in both(parts))
    assert appended <= masked * 1.02


def test_channels_differentiate_what_a_mask_differentiates() -> None:
    parts = heads(2, 32, torch.float64)
    masked, appended = (torch.autograd.grad(y.square().sum(), parts) for y in both(parts))
    torch.testing.assert_close(appended, masked)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
def test_an_empty_slot_is_not_attended_to(dtype: torch.dtype) -> None:
    *qkv, log_sizes = heads(2, 32, dtype)
    log_sizes = log_sizes.detach()
    log_sizes[:, 5] = -torch.inf
    masked, appended = both((*qkv, log_sizes))
    torch.testing.assert_close(appended, masked, **noise(dtype))
    assert all(g.isfinite().all() for g in torch.autograd.grad(appended.float().sum(), qkv))


@pytest.mark.parametrize("dtype", [torch.float32, *HALF])
@pytest.mark.parametrize("width", [16, 32, 64, 72, 80])
def test_heads_have_a_width_that_fast_kernels_take(width: int, dtype: torch.dtype) -> None:
    more = channels_appended(width, dtype)
    assert (width + more) % 8 == 0
    assert (2 if dtype in HALF else 1) <= more <= 9


def test_channels_are_for_gpus_in_half_precision_and_are_not_counted() -> None:
    gpu, cpu, meta = (torch.device(kind) for kind in ("cuda", "cpu", "meta"))
    assert appending_is_faster(gpu, torch.bfloat16)
    assert appending_is_faster(gpu, torch.float16)
    assert not appending_is_faster(gpu, torch.float32)
    assert not appending_is_faster(cpu, torch.bfloat16)
    assert not appending_is_faster(meta, torch.bfloat16)
    model = network("ltm")
    before = ltm.count(model)
    assert ltm.count(appending(model)) == before


def network(method: str = "tome", **options: Any) -> Any:
    model = with_method(TINY, lambda sites: build_method(method, sites, {}), PLAN, **options)
    for name, parameter in model.named_parameters():  # so that attention is far from uniform
        if "qkv.weight" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def appending(model: Any, form: bool = True) -> Any:
    for block in model.blocks:
        block.attn.appends_sizes = form
    return model


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("method", ["ltm", "tome", "tofu"])
def test_a_network_trains_alike_with_both(method: str, batch: int) -> None:
    model, x = network(method).train(), images(32, batch)
    results = []
    for form in (False, True):
        model.zero_grad()
        y = appending(model, form)(x)
        y.square().sum().backward()
        results.append((y, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}], ids=["", "qk_norm"])
@pytest.mark.parametrize("dtype", HALF)
def test_a_network_under_autocast_gives_alike_with_both(
    dtype: torch.dtype, options: dict[str, Any]
) -> None:
    model, x = network("ltm", **options), images(32, 4)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", dtype):
            masked, appended = (appending(model, form)(x).float() for form in (False, True))
    assert (appended - exact).norm() <= 1.5 * (masked - exact).norm()


class Masks(TorchFunctionMode):
    """Notes for every call of fused attention whether it has a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.seen.append(kwargs.get("attn_mask") is not None)
        return func(*args, **kwargs)


def masks_of(model: Any) -> list[bool]:
    with Masks() as masks, torch.no_grad():
        appending(model)(images(32))
    return masks.seen


@pytest.mark.parametrize("method", ["ltm", "tome", "tofu", "dtem"])
def test_no_kernel_gets_a_mask_after_a_merge(method: str) -> None:
    assert masks_of(network(method)) == [False] * 4


def test_masks_stay_where_tokens_leave_in_part_or_images_differ_in_their_number() -> None:
    assert masks_of(network("dtem").train()) == [False, True, True, True]
    varying = with_method(TINY, toys.VariesBySize, {"blocks.1": 60})
    assert masks_of(varying) == [True, True]  # the blocks before show their map


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
def test_channels_leave_python(dtype: torch.dtype, tmp_path: Path) -> None:
    model, x = appending(network("ltm")).to(dtype), images(32, 4).to(dtype)
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    with torch.no_grad():
        expected = model(x)
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), expected, **close)
        batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
        program = torch.export.export(model, (x[:2],), dynamic_shapes=batch)
        for n in (1, 4):
            torch.testing.assert_close(program.module()(x[:n]), expected[:n], **close)
    if dtype == torch.float32:
        assert_onnx_equals(program, x, expected, tmp_path)
