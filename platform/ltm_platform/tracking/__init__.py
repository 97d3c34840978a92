"""MLflow: where runs are recorded (`record`), added to (`amend`), listed (`runs`), shown (`ui`).

No other part of the platform knows MLflow.
"""

from ltm_platform.tracking.amend import add_curve, end_run
from ltm_platform.tracking.model import ImageInput
from ltm_platform.tracking.record import TrackedRun, tracked_run
from ltm_platform.tracking.runs import Point, RunRecord, find_run, find_runs, list_runs, read_curves
from ltm_platform.tracking.store import check_reachable, connect_meanwhile, tracking_uri
from ltm_platform.tracking.sweep import (
    TrackedSweep,
    metrics_if_finished,
    run_of_folder,
    tracked_sweep,
)
from ltm_platform.tracking.ui import runs_page, serving_ui

__all__ = [
    "ImageInput",
    "Point",
    "RunRecord",
    "TrackedRun",
    "TrackedSweep",
    "add_curve",
    "check_reachable",
    "connect_meanwhile",
    "end_run",
    "find_run",
    "find_runs",
    "list_runs",
    "metrics_if_finished",
    "read_curves",
    "run_of_folder",
    "runs_page",
    "serving_ui",
    "tracked_run",
    "tracked_sweep",
    "tracking_uri",
]
