"""Exported networks compute what the trained ones do, or are not kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnxruntime
import pytest
import timm
import torch
from safetensors import safe_open

import ltm
from ltm_platform.errors import RunError
from ltm_platform.inference import export
from ltm_platform.inference.trained_network import StoredNetwork, load_network

if TYPE_CHECKING:
    from pathlib import Path

    from ..conftest import MakeCheckpoint


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> StoredNetwork:
    return load_network(checkpoint, ema=True, ratio=0.5)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32)


def expected(network: StoredNetwork, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.model(images)


def check_metadata(metadata: dict[str, str]) -> None:
    assert json.loads(metadata["ltm.image_size"]) == 32
    assert json.loads(metadata["ltm.classes"]) == [str(digit) for digit in range(10)]
    assert json.loads(metadata["ltm.weights"]) == "model_ema.safetensors"
    assert json.loads(metadata["ltm.exif"]) is True
    assert json.loads(metadata["ltm.background"]) == "white"
    assert "backbone: vit_nano_patch4_32" in metadata["ltm.job"]


def test_onnx(network: StoredNetwork, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    assert export.export(network, "onnx", path) < export.TOLERANCE
    session = onnxruntime.InferenceSession(path)
    check_metadata(session.get_modelmeta().custom_metadata_map)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected(network, images))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_pt2(network: StoredNetwork, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    export.export(network, "pt2", path)
    kept = dict.fromkeys(export.metadata(network), "")
    program = torch.export.load(path, extra_files=kept)
    check_metadata(kept)
    torch.testing.assert_close(program.module()(images), expected(network, images))


def test_safetensors(network: StoredNetwork, images: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    assert export.export(network, "safetensors", path) == 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    check_metadata(metadata)
    model = ltm.create_model(
        "vit_nano_patch4_32", plan=json.loads(metadata["ltm.plan"]), num_classes=10, checkpoint=path
    )
    torch.testing.assert_close(model.eval()(images), expected(network, images))


def test_a_folder_is_timms_for_the_base_and_ours_with_the_method(
    network: StoredNetwork, images: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "net"
    assert export.export(network, "folder", path) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["net"]
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1
    known = json.loads((path / "ltm.json").read_text())
    assert known["ltm.classes"] == [str(digit) for digit in range(10)]
    with torch.no_grad():
        base = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        assert [*base.pretrained_cfg["label_names"]] == known["ltm.classes"]
        model = ltm.create_model(
            "vit_nano_patch4_32", plan=known["ltm.plan"], num_classes=10, checkpoint=path
        )
        torch.testing.assert_close(model.eval()(images), expected(network, images))
        model.set_compression(1.0)
        torch.testing.assert_close(base(images), model(images))
    for name, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_network_without_merging(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    base = load_network(make_checkpoint("model.method=none", "model.compression_ratio=null"))
    assert export.export(base, "safetensors", tmp_path / "base.safetensors") == 0


@pytest.mark.slow
def test_what_computes_something_else_is_not_kept(
    network: StoredNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.onnx"
    path.write_text("kept")
    monkeypatch.setattr(export, "TOLERANCE", 0.0)  # ONNX Runtime rounds in another way
    with pytest.raises(RunError, match="differs from the trained one"):
        export.export(network, "onnx", path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["kept"]
