"""What the command line, a notebook or a study calls.

Every function returns values and raises `UserError` or `RunError`. None prints, ends the process
or leaves environment variables or signal handlers changed: what libraries print goes to the run's
log. Only where a function says so KeyboardInterrupt has a meaning beyond Python's.
"""

from ltm_platform.api.clusters import (
    LocalRay,
    cluster_down,
    cluster_status,
    cluster_up,
    local_ray,
    start_local_ray,
    stop_local_ray,
)
from ltm_platform.api.jobs import (
    BundledJob,
    address_of,
    bundled_jobs,
    goes_to_cluster,
    plan,
    validate,
)
from ltm_platform.api.networks import analyse, evaluate, export, labels_of, pareto, predict
from ltm_platform.api.new_job import new_job
from ltm_platform.api.records import (
    Compared,
    compare,
    locate,
    logs,
    overview,
    reconcile,
    removals,
    remove,
    results_table,
    runs,
    status,
    stop,
)
from ltm_platform.api.sending import plan_there
from ltm_platform.api.smoke import smoke, smoke_there
from ltm_platform.api.sweeps import resume_sweep, tune
from ltm_platform.api.training import resume, submit
from ltm_platform.api.values import (
    Analysed,
    Checkpoint,
    Curve,
    Evaluated,
    Exported,
    Located,
    Predicted,
    RunBegins,
    RunEvent,
    RunResult,
    SentCommand,
    Smoke,
    Status,
    Stopped,
    SweepBegins,
    SweepEvent,
)
from ltm_platform.errors import RunError, UserError
from ltm_platform.job import JobSpec
from ltm_platform.runs.removal import Removal
from ltm_platform.tuning.results import TrialResult

__all__ = [
    "Analysed",
    "BundledJob",
    "Checkpoint",
    "Compared",
    "Curve",
    "Evaluated",
    "Exported",
    "JobSpec",
    "LocalRay",
    "Located",
    "Predicted",
    "Removal",
    "RunBegins",
    "RunError",
    "RunEvent",
    "RunResult",
    "SentCommand",
    "Smoke",
    "Status",
    "Stopped",
    "SweepBegins",
    "SweepEvent",
    "TrialResult",
    "UserError",
    "address_of",
    "analyse",
    "bundled_jobs",
    "cluster_down",
    "cluster_status",
    "cluster_up",
    "compare",
    "evaluate",
    "export",
    "goes_to_cluster",
    "labels_of",
    "local_ray",
    "locate",
    "logs",
    "new_job",
    "overview",
    "pareto",
    "plan",
    "plan_there",
    "predict",
    "reconcile",
    "removals",
    "remove",
    "results_table",
    "resume",
    "resume_sweep",
    "runs",
    "smoke",
    "smoke_there",
    "start_local_ray",
    "status",
    "stop",
    "stop_local_ray",
    "submit",
    "tune",
    "validate",
]
