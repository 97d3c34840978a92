"""MLflow: where runs are recorded (`record`), listed (`runs`) and shown (`ui`).

No other part of the platform knows MLflow.
"""

from ltm_platform.tracking.record import TrackedRun, tracked_run
from ltm_platform.tracking.runs import RunRecord, find_run, list_runs
from ltm_platform.tracking.store import check_reachable, connect_meanwhile, tracking_uri
from ltm_platform.tracking.sweep import (
    TrackedSweep,
    metrics_if_finished,
    run_of_folder,
    tracked_sweep,
)
from ltm_platform.tracking.ui import serving_ui

__all__ = [
    "RunRecord",
    "TrackedRun",
    "TrackedSweep",
    "check_reachable",
    "connect_meanwhile",
    "find_run",
    "list_runs",
    "metrics_if_finished",
    "run_of_folder",
    "serving_ui",
    "tracked_run",
    "tracked_sweep",
    "tracking_uri",
]
