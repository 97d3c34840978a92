"""One value for every way of reducing tokens; see `ltm.merge.base`."""

from ltm.merge.base import Merge, at_least_float32
from ltm.merge.partition import Assigned, MaxMagnitude, NormKept
from ltm.merge.selected import Selected
from ltm.merge.soft import HALF, Masked, Soft, presence
from ltm.merge.weighted import Local, Weighted
from ltm.merge.wrapped import Chained, Transformed, WithAttention, WithPackage, Wrapped

__all__ = [
    "HALF",
    "Assigned",
    "Chained",
    "Local",
    "Masked",
    "MaxMagnitude",
    "Merge",
    "NormKept",
    "Selected",
    "Soft",
    "Transformed",
    "Weighted",
    "WithAttention",
    "WithPackage",
    "Wrapped",
    "at_least_float32",
    "presence",
]
