"""Networks with fewer heads, hidden units or blocks, in the place of fewer tokens."""

from ltm.structure.gate import Gate
from ltm.structure.method import StructureMethod
from ltm.structure.network import PrunableModel, prunable
from ltm.structure.smaller import SmallerViT, as_fast, smaller

__all__ = [
    "Gate",
    "PrunableModel",
    "SmallerViT",
    "StructureMethod",
    "as_fast",
    "prunable",
    "smaller",
]
