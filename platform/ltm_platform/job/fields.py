"""What sections of a job are made of: their base, and the types that check single fields."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_VERSION = re.compile(r"[vV]\d+")
_LONGEST_TEXT = 4096  # the longest path that Linux takes
MOST_WORKERS = 4096
MOST_IMAGES = 2**20  # of a step


def conflict(sentence: str, *keys: str) -> PydanticCustomError:
    """Fields that cannot go together; ``keys`` are their names, the likeliest culprit first."""
    return PydanticCustomError("conflict", "{sentence}", {"sentence": sentence, "keys": keys})


def exclusive(**clearing: str) -> PydanticCustomError:
    """Fields of which a job has one: with dots as ``__``, each with the value that clears it."""
    values = {key.replace("__", "."): value for key, value in clearing.items()}
    return PydanticCustomError("exclusive", "one of {keys}", {"keys": values})


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value


def _run_name(value: str) -> str:
    # The name becomes a folder name and part of URLs.
    if not _NAME.fullmatch(value) or ".." in value:
        raise ValueError(
            "must be 1 to 63 lower-case letters, digits, '-', '_' and single dots, "
            "the first a letter or a digit"
        )
    return value


def _alias(value: str) -> str:
    if not _ALIAS.fullmatch(value) or _VERSION.fullmatch(value) or value == "latest":
        raise ValueError(
            "must be letters, digits, '-' and '_', but neither latest nor v with a number, "
            "which MLflow keeps for itself"
        )
    return value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("must have the smaller number first")
    return value


def _plain(value: Any) -> Any:
    """A copy of ``value`` if YAML and JSON can hold it exactly, else ValueError."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or not key.isprintable() or not key or "." in key:
                raise ValueError("must have printable names without dots as keys")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must hold finite numbers only")
    if isinstance(value, str):
        return _printable(value)
    if value is not None and not isinstance(value, (bool, int, float)):
        raise ValueError("must hold only text, numbers, true, false, null, lists and mappings")
    return value


Text = Annotated[str, Field(min_length=1, max_length=_LONGEST_TEXT), AfterValidator(_printable)]
RunName = Annotated[str, Field(min_length=1), AfterValidator(_run_name)]
Alias = Annotated[str, Field(min_length=1), AfterValidator(_alias)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Images = Annotated[int, Field(ge=1, le=MOST_IMAGES)]
Tokens = Annotated[int, Field(ge=1, le=2**20)]
Workers = Annotated[int, Field(ge=1, le=MOST_WORKERS)]
Retries = Annotated[int, Field(ge=0, le=100_000)]
LearningRate = Annotated[float, Field(ge=1e-12, le=10)]
Probability = Annotated[float, Field(ge=0, le=1)]
KeptFraction = Annotated[float, Field(gt=0, le=1)]
# YAML has lists, not tuples, hence not strict; the two numbers inside still are.
KeptRange = Annotated[
    tuple[KeptFraction, KeptFraction], Field(strict=False), AfterValidator(_ordered)
]
WorkerRange = Annotated[tuple[Workers, Workers], Field(strict=False), AfterValidator(_ordered)]
Plan = dict[str, Tokens | Annotated[tuple[Tokens, Tokens], Field(strict=False)]]
Options = Annotated[
    dict[str, Any],
    BeforeValidator(lambda value: {} if value is None else value),
    AfterValidator(_plain),
]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown fields, no silent conversion, no NaN."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,  # keeps `import ltm_platform.job` fast
    )
