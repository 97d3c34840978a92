"""MLflow: where runs are recorded (`record`), added to (`append`), listed (`runs`), shown (`ui`).

No other part of the platform but `compat` imports MLflow.
"""

from ltm_platform.tracking.append import add_curve, add_files, end_run, remove_run
from ltm_platform.tracking.model import ImageInput
from ltm_platform.tracking.record import TrackedRun, tracked_run
from ltm_platform.tracking.runs import (
    ERROR_TAG,
    EVALUATED_TAG,
    RULE_TAG,
    Point,
    RunRecord,
    fetch_files,
    find_run,
    find_runs,
    list_runs,
    model_versions,
    read_curves,
)
from ltm_platform.tracking.store import (
    URI_VARIABLE,
    check_usable,
    connect_meanwhile,
    tracking_uri,
)
from ltm_platform.tracking.sweep_run import (
    BEST_TRIAL_TAG,
    STOPPED_TAG,
    TrackedSweep,
    how_it_ended,
    run_of_folder,
    tracked_sweep,
)
from ltm_platform.tracking.ui import runs_page, serving_ui

__all__ = [
    "BEST_TRIAL_TAG",
    "ERROR_TAG",
    "EVALUATED_TAG",
    "RULE_TAG",
    "STOPPED_TAG",
    "URI_VARIABLE",
    "ImageInput",
    "Point",
    "RunRecord",
    "TrackedRun",
    "TrackedSweep",
    "add_curve",
    "add_files",
    "check_usable",
    "connect_meanwhile",
    "end_run",
    "fetch_files",
    "find_run",
    "find_runs",
    "how_it_ended",
    "list_runs",
    "model_versions",
    "read_curves",
    "remove_run",
    "run_of_folder",
    "runs_page",
    "serving_ui",
    "tracked_run",
    "tracked_sweep",
    "tracking_uri",
]
