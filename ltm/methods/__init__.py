"""Methods by name. A new one is one file with `@register_method` and one line here."""

from ltm.methods import ltm, tome
from ltm.methods._base import (
    Method,
    build_method,
    check_method,
    list_methods,
    list_options,
    register_method,
)

__all__ = [
    "Method",
    "build_method",
    "check_method",
    "list_methods",
    "list_options",
    "ltm",
    "register_method",
    "tome",
]
