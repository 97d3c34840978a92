"""MLflow: the names, codes and addresses that its public interface leaves out."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from requests.exceptions import RequestException

HEALTH_PATH = "/health"
"""Of a server: what answers once it serves, without a login."""
IMAGES_FOLDER = "images"
"""Among a run's artifacts: where ``log_image`` writes."""
DATA_FOLDER, CODE_FOLDER = "data", "code"
"""In a model's folder: what ``mlflow.pytorch.save_model`` calls its pickle's folder and that of
``code_paths``."""
CONDA_FILE, PYTHON_FILE = "conda.yaml", "python_env.yaml"
"""In a model's folder: the environments that it writes."""


def is_unavailable(error: BaseException) -> bool:
    """Whether a store that comes back would have answered.

    MLflow has one class of exceptions, with a code: one for a database that does not answer. What
    goes wrong on the way to a server it wraps.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
        return True
    behind = error.__cause__ or error.__context__
    return isinstance(error, RequestException) or (behind is not None and is_unavailable(behind))


def exists_already(error: Exception) -> bool:
    """Whether the store refused to make what it has."""
    return getattr(error, "error_code", None) == "RESOURCE_ALREADY_EXISTS"


def is_image(artifact: str, key: str, step: int) -> bool:
    """Whether ``log_image`` gave this path to an image of that key and step.

    There is no other way to ask for what it has logged.
    """
    return artifact.startswith(f"{IMAGES_FOLDER}/{key}+step+{step}+")


def link_to_version(client: Any, model_id: str, name: str, version: str | int) -> None:
    """Have the user interface link a logged model to the version that was registered of it.

    ``mlflow.register_model`` does it, of a model's URI alone. ``client``: an `MlflowClient`.
    """
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    link = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: link})


def runs_page_address(address: str, experiment_id: str, metric: str) -> str:
    """Where the user interface at ``address`` shows an experiment's runs, highest metric first.

    MLflow would open its pages on language models instead.
    """
    order = {"orderByKey": f"metrics.`{metric}`", "orderByAsc": "false"}
    query = urlencode({"workflowType": "machine_learning"} | order)
    return f"{address}/#/experiments/{experiment_id}/runs?{query}"


def system_monitors() -> list[Any]:
    """MLflow's monitors of the CPU, the disk, the network and, where there is one, the GPU.

    Each has ``collect_metrics``, ``aggregate_metrics`` and ``clear_metrics``. The public switch
    puts a thread around them that ends for good when the store is away, and that asks for the
    whole run at every sample.
    """
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        try:
            monitors.append(kind())
        except Exception:  # whatever a driver that is not there makes its library raise
            continue
        break
    return monitors
