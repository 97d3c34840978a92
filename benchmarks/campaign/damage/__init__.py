"""Files are damaged, and then read by what reads them in the product."""

from .damage import Damage

__all__ = ["Damage"]
