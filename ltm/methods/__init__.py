"""Methods by name. A new one is one file with `@register_method` and one line here."""

from ltm.methods import cubistmerge, dtem, ltm, ltmp, pitome, spvit, tofu, tome
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
    "cubistmerge",
    "dtem",
    "list_methods",
    "list_options",
    "ltm",
    "ltmp",
    "pitome",
    "register_method",
    "spvit",
    "tofu",
    "tome",
]
