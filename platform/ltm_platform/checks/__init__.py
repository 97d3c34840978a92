"""Everything that can be known to be wrong before a worker is taken."""

from ltm_platform.checks.checked_job import (
    CheckedJob,
    ErrorCollector,
    Findings,
    check,
    check_here,
    check_job,
    with_notices,
    with_problems,
)
from ltm_platform.checks.images import check_data
from ltm_platform.checks.model import check_names, check_network
from ltm_platform.checks.resources import compiler_here
from ltm_platform.checks.stores import (
    check_no_keys,
    check_storage,
    with_absolute_paths,
)

__all__ = [
    "CheckedJob",
    "ErrorCollector",
    "Findings",
    "check",
    "check_data",
    "check_here",
    "check_job",
    "check_names",
    "check_network",
    "check_no_keys",
    "check_storage",
    "compiler_here",
    "with_absolute_paths",
    "with_notices",
    "with_problems",
]
