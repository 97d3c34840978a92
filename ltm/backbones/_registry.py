"""Families of backbones by the timm module that defines them, and backbones by name."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import timm
from timm.models import is_model, model_entrypoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ltm.backbones._base import MergingModel

_FAMILIES: dict[str, type[MergingModel]] = {}
_ALIASES: dict[str, str] = {}
_REFUSED: list[str] = []


def register_family(
    *timm_modules: str, aliases: Mapping[str, str], refuses: str = "(?!)"
) -> Callable[[type[MergingModel]], type[MergingModel]]:
    """Register the model class for timm models defined in these modules, and short names.

    refuses: a regular expression for names in those modules that `from_timm` refuses; they are
        not listed.
    """

    def register(cls: type[MergingModel]) -> type[MergingModel]:
        for module in timm_modules:
            assert module not in _FAMILIES, f"family of {module} is registered twice"
            _FAMILIES[module] = cls
        _ALIASES.update(aliases)
        _REFUSED.append(refuses)
        return cls

    return register


def list_backbones() -> list[str]:
    """Names of every timm model of a known family, for `create_model`; short names first."""
    refused = re.compile("|".join(_REFUSED))
    known = (n for n in timm.list_models() if model_entrypoint(n).__module__ in _FAMILIES)
    return [*sorted(_ALIASES), *(name for name in known if not refused.search(name))]


def find_backbone(name: str) -> tuple[str, type[MergingModel]]:
    """timm's name, and the family, of a backbone by timm's, a short, or the paper's name.

    ValueError with the nearest names when it is unknown, or not of a family that can merge.
    """
    plain = str(name).removeprefix("ltm_")
    plain = _ALIASES.get(plain, plain)
    if not is_model(plain):
        near = get_close_matches(plain, list_backbones(), n=3)
        hint = f": did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"backbone is {name!r}, which timm does not have{hint}")
    module = model_entrypoint(plain).__module__
    if module not in _FAMILIES:
        families = ", ".join(sorted({m.rpartition(".")[2] for m in _FAMILIES}))
        raise ValueError(f"backbone is {name!r} of {module}, allowed families are {families}")
    return plain, _FAMILIES[module]


def small_cfg(classifier: str) -> dict[str, Any]:
    """timm's record of a network of ours for 32 x 32 pixels, whose classifier has that name."""
    return {
        "num_classes": 1000,
        "input_size": (3, 32, 32),
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "first_conv": "patch_embed.proj",
        "classifier": classifier,
    }
