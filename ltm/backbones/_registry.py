"""Families of backbones by the timm module that defines them, and backbones by name."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import timm
from timm.models import (
    get_arch_pretrained_cfgs,
    is_model,
    model_entrypoint,
)
from torch import nn

from ltm import plugins
from ltm.errors import FieldError, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ltm.backbones._base import MergingModel

_GROUP = "ltm.backbones"

_FAMILIES: dict[str, type[MergingModel]] = {}
_LABELS: dict[str, str] = {}
_ALIASES: dict[str, str] = {}
_REFUSED: list[str] = []


def register_family(
    *timm_modules: str,
    label: str,
    aliases: Mapping[str, str] = MappingProxyType({}),
    refuses: str = "(?!)",
) -> Callable[[type[MergingModel]], type[MergingModel]]:
    """Register the model class for timm models defined in these modules, and short names.

    label: what people call the family.
    refuses: a regular expression for names in those modules that `from_timm` refuses; they are
        not listed.
    """

    def register(cls: type[MergingModel]) -> type[MergingModel]:
        for module in timm_modules:
            if module in _FAMILIES:
                problem = f"names {module}, whose networks are those of {_LABELS[module]} already"
                raise FieldError("timm_modules", module, problem=problem)
        for alias in aliases:
            if alias in _ALIASES:
                problem = f"has {alias!r}, which is {_ALIASES[alias]} already"
                raise FieldError("aliases", alias, problem=problem)
        for module in timm_modules:
            _FAMILIES[module] = cls
            _LABELS[module] = label
        _ALIASES.update(aliases)
        _REFUSED.append(refuses)
        return cls

    return register


def list_backbones() -> list[str]:
    """Names of every timm model of a known family, for `create_model`; short names first."""
    plugins.load_all(_GROUP)
    refused = re.compile("|".join(_REFUSED))
    known = (n for n in timm.list_models() if model_entrypoint(n).__module__ in _FAMILIES)
    return [*sorted(_ALIASES), *(name for name in known if not refused.search(name))]


def find_backbone(name: str) -> tuple[str, type[MergingModel]]:
    """timm's name, and the family, of a backbone by timm's, a short, or the paper's name.

    FieldError with the nearest name when it is unknown, not of a family that can merge, or names
    weights (the part after a dot) that timm does not have.
    """
    found = _look_up(name)
    if found is None:  # other packages are loaded only for what we do not have
        plugins.load_all(_GROUP)
        found = _look_up(name)
    if found is not None:
        _check_weights(name, found[0])
        return found
    plain = _plain(name)
    if not is_model(plain):
        problem = f"is {quoted(name)}, which timm does not have"
        raise FieldError("backbone", name, problem=problem, similar=list_backbones())
    families = sorted({*_LABELS.values()})
    module = model_entrypoint(plain).__module__
    raise FieldError(
        "backbone",
        name,
        f"the families {', '.join(families[:-1])} and {families[-1]}",
        f"is {quoted(name)} of {module}",
        families,
    )


def find_family(model: Any) -> type[MergingModel]:
    """The family of timm's model, or of one that merges already.

    FieldError for a model of a class that no family knows.
    """
    kind = type(model)
    plugins.load_all(_GROUP)
    for family in dict.fromkeys(_FAMILIES.values()):
        classes = (family, *family.variants)
        if kind is not nn.Module and any(issubclass(one, kind) for one in classes):
            return family
    families = sorted({*_LABELS.values()})
    raise FieldError(
        "model",
        kind.__name__,
        f"timm's own network of the families {', '.join(families[:-1])} and {families[-1]}",
        f"is a {kind.__name__} of {kind.__module__}",
        families,
    )


def own_size(name: str) -> int | None:
    """Pixels that a backbone is built for when no size is given; None where it does not say."""
    plain, family = find_backbone(name)
    return family.own_size(plain)


def _check_weights(name: str, plain: str) -> None:
    architecture, dot, weights = plain.partition(".")
    known = get_arch_pretrained_cfgs(architecture) if dot else {plain: None}
    if plain not in known:
        allowed = ", ".join([architecture, *(full for full in known if full != architecture)])
        problem = f"is {quoted(name)}, but timm has no weights {quoted(weights)} of it"
        raise FieldError("backbone", name, allowed, problem, similar=[*known])


def _plain(name: str) -> str:
    plain = str(name).removeprefix("ltm_")
    return _ALIASES.get(plain, plain)


def _look_up(name: str) -> tuple[str, type[MergingModel]] | None:
    plain = _plain(name)
    family = _FAMILIES.get(model_entrypoint(plain).__module__) if is_model(plain) else None
    return None if family is None else (plain, family)


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
