"""DeepSpeed's import, without the modules that no rank uses."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ltm_platform.errors import first_invalid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


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


class _Asked(dict[str, Any]):
    """A configuration that notes which of its keys DeepSpeed asks for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.keys_asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.keys_asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.keys_asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.keys_asked.add(str(key))
        return super().__contains__(key)


def config_problem(config: Mapping[str, Any]) -> tuple[str, str, set[str]] | None:
    """What DeepSpeed does not take of a configuration: the key, why, and the keys that it knows.

    DeepSpeed itself passes over keys of the first level that it does not know. Where it does not
    say which key it is, that is empty.
    """
    import_deepspeed()
    from deepspeed.runtime.config import DeepSpeedConfig
    from pydantic import ValidationError

    asked = _Asked(config)
    try:
        DeepSpeedConfig(asked)
    except ValidationError as error:
        return *first_invalid(error), set()
    except (AssertionError, TypeError, ValueError, KeyError, AttributeError) as error:
        return "", str(error), set()
    for key in config:
        if key not in asked.keys_asked:
            return key, "is no setting of DeepSpeed's", asked.keys_asked
    return None
