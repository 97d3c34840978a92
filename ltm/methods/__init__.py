"""Methods by name. A new one is one file with `@register_method` and one line here."""

from ltm.methods import cubistmerge, dtem, ltm, ltmp, pitome, s2vite, savit, spvit, tofu, tome
from ltm.methods._base import (
    Method,
    build_method,
    check_method,
    list_methods,
    list_options,
    list_token_methods,
    register_method,
    removes_structure,
)
from ltm.methods._hooks import Hooks
from ltm.methods._structure import Structure

__all__ = [
    "Hooks",
    "Method",
    "Structure",
    "build_method",
    "check_method",
    "cubistmerge",
    "dtem",
    "list_methods",
    "list_options",
    "list_token_methods",
    "ltm",
    "ltmp",
    "pitome",
    "register_method",
    "removes_structure",
    "s2vite",
    "savit",
    "spvit",
    "tofu",
    "tome",
]
