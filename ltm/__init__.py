"""Learnable Token Merging for vision transformers (arXiv 2407.15219), on timm's own networks.

>>> import ltm
>>> model = ltm.create_model("vit_s", method="ltm", compression_ratio=0.8)
>>> ltm.count(model).gmacs  # doctest: +SKIP
"""

from ltm.backbones import list_backbones
from ltm.bottleneck import StreamingBottleneck
from ltm.create import create_model
from ltm.flops import Count, count
from ltm.merge import Merge
from ltm.methods import Method, list_methods, register_method

__all__ = [
    "Count",
    "Merge",
    "Method",
    "StreamingBottleneck",
    "count",
    "create_model",
    "list_backbones",
    "list_methods",
    "register_method",
]
