"""Networks leave Python: torch.export, ONNX in onnxruntime, torch.compile, half precision."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import ltm

NETS = {
    "vit_nano_patch4_32": 32,
    "swin_nano_patch2_window4_32": 32,
    "mobilevit_xxs": 64,
    "efficientvit_b0": 64,
}


def create(backbone: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    size = NETS[backbone]
    model = ltm.create_model(backbone, compression_ratio=0.5, image_size=size, num_classes=5)
    for name, parameter in model.named_parameters():
        if name.endswith("omega"):  # a step that does something
            torch.nn.init.normal_(parameter)
    return model.eval(), torch.randn(4, 3, size, size)


@pytest.mark.parametrize("backbone", NETS)
def test_export_and_onnx_with_any_batch_equal_eager(backbone: str, tmp_path: Path) -> None:
    model, x = create(backbone)
    batch = {"x": {0: torch.export.Dim("batch", min=1, max=64)}}
    with torch.no_grad():
        expected = model(x)
        program = torch.export.export(model, (x[:2],), dynamic_shapes=tuple(batch.values()))
        torch.testing.assert_close(program.module()(x), expected, atol=1e-4, rtol=1e-4)
        onnx = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False)
    assert onnx is not None
    onnx.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    name = session.get_inputs()[0].name
    for n in (1, 4):
        (out,) = session.run(None, {name: x[:n].numpy()})
        np.testing.assert_allclose(out, expected[:n].numpy(), atol=1e-4, rtol=1e-4)


RIVALS = [method for method in ltm.list_token_methods() if method != "ltm"]


def create_rival(method: str) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    model: Any = ltm.create_model("vit_nano_patch4_32", method, compression_ratio=0.6)
    return model, torch.randn(4, 3, 32, 32)


@pytest.mark.parametrize("method", RIVALS)
def test_rivals_export_for_any_batch(method: str) -> None:
    model, x = create_rival(method)
    batch = ({0: torch.export.Dim("batch", min=1, max=64)},)
    with torch.no_grad():
        program = torch.export.export(model.eval(), (x[:2],), dynamic_shapes=batch)
        torch.testing.assert_close(program.module()(x), model(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", RIVALS)
def test_rivals_compile_in_training_and_outside(method: str) -> None:
    model, x = create_rival(method)
    for mode in (False, True):
        model.train(mode)
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.manual_seed(1)
        expected, terms = model(x), sum(model.method.loss_terms().values())
        torch.manual_seed(1)
        torch.testing.assert_close(compiled(x), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(sum(model.method.loss_terms().values()), terms)


@pytest.mark.parametrize("backbone", ["vit_nano_patch4_32", "swin_nano_patch2_window4_32"])
def test_compile_breaks_no_graph(backbone: str) -> None:
    model, x = create(backbone)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backbone", NETS)
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
