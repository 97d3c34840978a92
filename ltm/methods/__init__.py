"""Methods by name. A new one is one file with `@register_method` and one line here.

A method of another package is an entry point of the group `ltm.methods`, see docs/extending.md.
"""

from ltm.interfaces import (
    Hooks,
    Method,
)
from ltm.methods import (
    atc,
    ats,
    central,
    cubistmerge,
    diffrate,
    dpcknn,
    dtem,
    evit,
    kmedoids,
    ltm,
    ltmp,
    mctf,
    pitome,
    s2vite,
    savit,
    spvit,
    tofu,
    tome,
    topk,
)
from ltm.methods._registry import (
    build_method,
    check_method,
    grids,
    list_methods,
    list_options,
    list_token_methods,
    reduces,
    register_method,
)

__all__ = [
    "Hooks",
    "Method",
    "atc",
    "ats",
    "build_method",
    "central",
    "check_method",
    "cubistmerge",
    "diffrate",
    "dpcknn",
    "dtem",
    "evit",
    "grids",
    "kmedoids",
    "list_methods",
    "list_options",
    "list_token_methods",
    "ltm",
    "ltmp",
    "mctf",
    "pitome",
    "reduces",
    "register_method",
    "s2vite",
    "savit",
    "spvit",
    "tofu",
    "tome",
    "topk",
]
