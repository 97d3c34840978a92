"""Everything that can be known to be wrong before a worker is taken."""

from ltm_platform.preflight.data import check_data
from ltm_platform.preflight.network import check_names
from ltm_platform.preflight.places import (
    check_no_keys,
    check_storage,
    storage_root,
    with_absolute_paths,
)
from ltm_platform.preflight.ready import Overridable, Ready, check, with_problems
from ltm_platform.preflight.resources import Resources, compiler_here

__all__ = [
    "Overridable",
    "Ready",
    "Resources",
    "check",
    "check_data",
    "check_names",
    "check_no_keys",
    "check_storage",
    "compiler_here",
    "storage_root",
    "with_absolute_paths",
    "with_problems",
]
