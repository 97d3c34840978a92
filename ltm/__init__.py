"""Learnable Token Merging for vision transformers (arXiv 2407.15219), on timm's own networks.

>>> import ltm
>>> model = ltm.create_model("vit_s", method="ltm", compression_ratio=0.8)
>>> ltm.count(model).gmacs  # doctest: +SKIP
"""

from ltm import timm_models
from ltm.backbones import list_backbones
from ltm.bottleneck import StreamingBottleneck
from ltm.create import create_model
from ltm.flops import Count, count
from ltm.heatmap import Heatmap, beside, heatmap
from ltm.merge import Merge
from ltm.methods import Method, list_methods, list_token_methods, register_method
from ltm.plan import elastic_ratio
from ltm.structure import compacted
from ltm.table import Published, table

__all__ = [
    "Count",
    "Heatmap",
    "Merge",
    "Method",
    "Published",
    "StreamingBottleneck",
    "beside",
    "compacted",
    "count",
    "create_model",
    "elastic_ratio",
    "heatmap",
    "list_backbones",
    "list_methods",
    "list_token_methods",
    "register_method",
    "table",
    "timm_models",
]
