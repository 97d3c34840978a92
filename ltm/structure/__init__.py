"""Networks made smaller by removing attention heads and hidden units, in the place of tokens."""

from ltm.structure.gate import Gate
from ltm.structure.method import StructureMethod
from ltm.structure.network import PrunableModel, prunable

__all__ = ["Gate", "PrunableModel", "StructureMethod", "prunable"]
