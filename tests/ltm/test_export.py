"""Networks leave Python: torch.export, ONNX in onnxruntime, torch.compile, half precision."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import ltm
from ltm.interfaces import Evidence, Kept, Site, SiteInput, SiteKind
from ltm.methods import build_method, grids

from ..marks import fast_only
from .networks import SIZES


def create(backbone: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    size = SIZES[backbone]
    model = ltm.create_model(backbone, compression_ratio=0.5, image_size=size, num_classes=5)
    for name, parameter in model.named_parameters():
        if name.endswith("omega"):  # a step that does something
            torch.nn.init.normal_(parameter)
    return model.eval(), torch.randn(4, 3, size, size)


@torch.no_grad()
def assert_onnx_equals(
    program: torch.export.ExportedProgram,
    x: torch.Tensor,
    expected: torch.Tensor,
    folder: Path,
    *,
    optimize: bool = False,
) -> None:
    """In onnxruntime, for one of the images and for four; of several outputs the first."""
    onnx = torch.onnx.export(program, dynamo=True, optimize=optimize, verbose=False)
    assert onnx is not None
    onnx.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    name = session.get_inputs()[0].name
    for n in (1, 4):
        out, *_ = session.run(None, {name: x[:n].numpy()})
        np.testing.assert_allclose(out, expected[:n].numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SIZES)
def test_export_and_onnx_with_any_batch_equal_eager(backbone: str, tmp_path: Path) -> None:
    model, x = create(backbone)
    batch = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    with torch.no_grad():
        expected = model(x)
        program = torch.export.export(model, (x[:2],), dynamic_shapes=tuple(batch.values()))
        torch.testing.assert_close(program.module()(x), expected, atol=1e-4, rtol=1e-4)
    assert_onnx_equals(program, x, expected, tmp_path)


class OneSite(torch.nn.Module):
    """A method at one of its sites, in a network too small to take long."""

    def __init__(self, method: str, kept: Kept, **options: object) -> None:
        super().__init__()
        torch.manual_seed(0)
        kind = SiteKind(16, needs_grid=not isinstance(kept, int))
        self.method: Any = build_method(method, {f"blocks.{i}": kind for i in range(4)}, options)
        self.site = Site("blocks.1", 16, (4, 6), 24, kept)
        self.method.prepare({self.site.name: self.site}, torch.zeros(1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        merge = self.method(SiteInput(x, self.site, **evidence(x, self.method.needs)))
        return merge(x), merge.sizes()


def evidence(x: torch.Tensor, needs: frozenset[Evidence]) -> dict[Evidence, torch.Tensor]:
    """What attention of one head shows, for tokens that are queries, keys and values at once."""
    attention = (x @ x.transpose(1, 2)).softmax(-1)[:, None]
    received = attention.mean((1, 2))
    shown: dict[Evidence, torch.Tensor] = {
        "normed_input": x,
        "keys": x,
        "value_norms": x.norm(dim=-1)[:, None],
        "received": received,
        "received_before": received,
        "class_attention": attention[:, :, 0],
        "attention": attention,
    }
    return {name: shown[name] for name in needs}


RIVALS = [method for method in ltm.list_token_methods() if method != "ltm"]
KEPT = [(m, 13 if grids(m) == "refused" else (3, 4)) for m in RIVALS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kept", "options"),
    [
        *((*pair, {}) for pair in KEPT),
        ("pitome", 13, {"unprotected": "first"}),
        ("pitome", 13, {"unprotected": "second"}),
        ("tome", 13, {"order": "authors"}),
    ],
)
def test_rivals_export_for_any_batch(method: str, kept: Kept, options: dict[str, Any]) -> None:
    net, x = OneSite(method, kept, **options).eval(), torch.randn(4, 24, 16)
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(net, (x[:2],), dynamic_shapes=batch)
    torch.testing.assert_close(program.module()(x), net(x), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_cubistmerge_as_onnx_can_be_optimised(tmp_path: Path) -> None:
    """The value farthest from 0 keeps its sign, whatever the optimiser makes of it."""
    net, x = OneSite("cubistmerge", (3, 4)).eval(), torch.randn(4, 24, 16)
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(net, (x[:2],), dynamic_shapes=batch)
    assert_onnx_equals(program, x, net(x)[0], tmp_path, optimize=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dtem", "dynamicvit", "ltmp", "spvit"])
def test_what_is_soft_in_training_compiles(method: str) -> None:
    net, x = OneSite(method, 13).train(), torch.randn(4, 24, 16)
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.manual_seed(1)  # a decision by chance is the same one
    expected, terms = net(x), net.method.loss_terms()
    torch.manual_seed(1)
    torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(net.method.loss_terms(), terms)


@pytest.mark.parametrize("backbone", fast_only(list(SIZES)[:2], ["vit_nano_patch4_32"]))
def test_compile_breaks_no_graph(backbone: str) -> None:
    model, x = create(backbone)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", SIZES)
def test_half_precision_is_safe(backbone: str, dtype: torch.dtype) -> None:
    model, x = create(backbone)
    plain = model(x)
    with torch.autocast("cpu", dtype):
        half = model(x)
    half.float().square().mean().backward()
    assert half.isfinite().all()
    assert torch.nn.functional.cosine_similarity(half.float(), plain).mean() > 0.95
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.to(dtype)(x.to(dtype)).isfinite().all()
