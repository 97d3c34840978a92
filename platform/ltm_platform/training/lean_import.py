"""Imports that leave out what the imported would bring along."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without(module: str) -> Iterator[None]:
    """In the block nobody finds an optional module, unless it is loaded already."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # how Python marks a missing one
    try:
        yield
    finally:
        del sys.modules[module]


def import_deepspeed() -> None:
    """DeepSpeed's autotuner, which is not used, would load MLflow: two seconds of every rank."""
    with without("mlflow"):
        import deepspeed  # noqa: F401
