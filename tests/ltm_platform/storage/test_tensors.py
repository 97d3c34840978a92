from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltm_platform.storage import tensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_an_interrupt_within_safetensors_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[], None]
) -> None:
    path = tmp_path / "some.safetensors"
    save_file({"weight": torch.ones(3)}, path)
    read = []

    def interrupted(path: Path) -> dict[str, torch.Tensor]:
        interrupt()
        read.append(load_file(path))
        return read[0]

    monkeypatch.setattr(tensors, "load_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tensors.load_tensors(path)
    assert torch.equal(read[0]["weight"], torch.ones(3))
