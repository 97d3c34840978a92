"""Backbone families. A new one is one file with `@register_family` and one line here.

A family of another package is an entry point of the group `ltm.backbones`, see docs/extending.md.
"""

from ltm.backbones import efficientvit, eva, mobilevit, swin, swinv2, vit
from ltm.backbones._base import MergingModel
from ltm.backbones._choices import Choose
from ltm.backbones._merging import Merging
from ltm.backbones._registry import (
    find_backbone,
    find_family,
    list_backbones,
    own_size,
    register_family,
)
from ltm.backbones._staged import StagedModel, check_size, halved, merged_map

__all__ = [
    "Choose",
    "Merging",
    "MergingModel",
    "StagedModel",
    "check_size",
    "efficientvit",
    "eva",
    "find_backbone",
    "find_family",
    "halved",
    "list_backbones",
    "merged_map",
    "mobilevit",
    "own_size",
    "register_family",
    "swin",
    "swinv2",
    "vit",
]
