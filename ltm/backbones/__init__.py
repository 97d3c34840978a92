"""Backbone families. A new one is one file with `@register_family` and one line here."""

from ltm.backbones import efficientvit, mobilevit, swin, vit
from ltm.backbones._base import MergingModel, adopt
from ltm.backbones._registry import find_backbone, list_backbones

__all__ = [
    "MergingModel",
    "adopt",
    "efficientvit",
    "find_backbone",
    "list_backbones",
    "mobilevit",
    "swin",
    "vit",
]
