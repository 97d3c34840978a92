"""MLflow: where runs are recorded (`record`), listed (`runs`) and shown (`ui`).

No other part of the platform knows MLflow.
"""

from ltm_platform.tracking.model import ImageInput
from ltm_platform.tracking.record import TrackedRun, tracked_run
from ltm_platform.tracking.runs import RunRecord, find_run, list_runs
from ltm_platform.tracking.store import check_reachable, connect_meanwhile, tracking_uri
from ltm_platform.tracking.ui import runs_page, serving_ui

__all__ = [
    "ImageInput",
    "RunRecord",
    "TrackedRun",
    "check_reachable",
    "connect_meanwhile",
    "find_run",
    "list_runs",
    "runs_page",
    "serving_ui",
    "tracked_run",
    "tracking_uri",
]
