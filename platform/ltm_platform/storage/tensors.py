"""Files of tensors, read in processes that Ctrl-C may stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import load_file

from ltm_platform.interrupts import interrupts_held

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What is in a safetensors file, on the CPU.

    An interrupt within safetensors would be a ValueError of its own.
    """
    with interrupts_held():
        return load_file(path)
