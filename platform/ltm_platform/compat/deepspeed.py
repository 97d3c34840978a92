"""DeepSpeed's import, without the modules that no rank uses."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without(module: str) -> Iterator[None]:
    """In the block no optional module can be imported, unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # how Python marks a missing one
    try:
        yield
    finally:
        del sys.modules[module]


@contextmanager
def uncompiled() -> Iterator[None]:
    """In the block ``torch.compile`` leaves functions as they are, without loading a compiler."""
    before = os.environ.get(_NO_COMPILING)
    os.environ[_NO_COMPILING] = "1"
    try:
        yield
    finally:
        del os.environ[_NO_COMPILING]
        if before is not None:
            os.environ[_NO_COMPILING] = before


_NO_COMPILING = "TORCHDYNAMO_DISABLE"


def import_deepspeed() -> None:
    """DeepSpeed without what no rank uses, which is seconds of each and a minute of the first.

    That is MLflow for its autotuner, kernels for its own Muon, and a search for what of its
    operators a compiler could build; on CPUs it would then build one, for inference alone.
    """
    with without("mlflow"):
        import deepspeed
    import deepspeed.ops

    vars(deepspeed.ops)["__compatible_ops__"] = {}
    with uncompiled():
        import deepspeed.runtime.zero.muon.muon_optimizer
