"""A trained network as an MLflow model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ltm import plugins
from ltm_platform.compat import image_loader
from ltm_platform.compat.mlflow import (
    CODE_FOLDER,
    CONDA_FILE,
    DATA_FOLDER,
    PYTHON_FILE,
    exists_already,
    link_to_version,
    requirements_as_given,
)
from ltm_platform.temporary import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ltm_platform.tracking.retry import RetryingClient

MODEL_NAME = "best"
"""A run's logged model: ``runs:/<run id>/best``."""
_LOADER = Path(image_loader.__file__).parent
_CODE = "ltm_image_loader"
_REQUIRED = ("mlflow", "torch", "torchvision", "timm", "pillow", "numpy", "pandas", "cloudpickle")


@dataclass(frozen=True, slots=True)
class ImageInput:
    """How an image becomes the network's input, and what its outputs mean."""

    size: int
    """Height and width in pixels."""
    resize: int
    """Pixels of the shorter side before the centre is cut out."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    exif: bool
    """Whether images are turned as their EXIF orientation says."""
    background: str
    """What shows through transparent pixels, as the job's ``data.background``."""
    classes: tuple[str, ...]


def save_model(
    network: nn.Module, inputs: ImageInput, folder: Path, *, run_id: str, model_id: str
) -> None:
    """Write an MLflow model: ``mlflow.pytorch`` gives the network, ``mlflow.pyfunc`` takes images.

    The network is pickled with the code that it is made of beside it: that takes a fraction of a
    second, where an export takes some, and keeps what an export loses: other devices, other
    compression ratios, further training.
    """
    import mlflow.pytorch
    from mlflow import pyfunc
    from mlflow.models import Model

    model = Model(run_id=run_id, model_uuid=model_id, model_id=model_id)
    with requirements_as_given():  # which are what is installed
        mlflow.pytorch.save_model(
            network,
            str(folder),
            mlflow_model=model,
            code_paths=[str(plugins.code_of(package)) for package in _packages(network)],
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in _REQUIRED],
            serialization_format="pickle",
        )
    (folder / DATA_FOLDER / "inputs.json").write_text(json.dumps(asdict(inputs)))
    for module in _LOADER.glob("*.py"):
        code = folder / CODE_FOLDER / _CODE / module.name
        code.parent.mkdir(exist_ok=True)
        code.write_text(module.read_text())
    pyfunc.add_to_model(
        model,
        loader_module=f"{_CODE}.classifier",
        data=DATA_FOLDER,
        code=CODE_FOLDER,
        conda_env=CONDA_FILE,
        python_env=PYTHON_FILE,
        model_config={"device": None},
    )
    model.save(str(folder / "MLmodel"))


def _packages(network: nn.Module) -> list[str]:
    """Ours, and those of other packages' methods and backbones that the network is made of."""
    used = {type(module).__module__.partition(".")[0] for module in network.modules()}
    return ["ltm", *(name for name in plugins.packages() if name in used)]


def log_model(
    client: RetryingClient, run_id: str, network: nn.Module, inputs: ImageInput, step: int
) -> str:
    """Log the network that a run had at ``step``, with the run's metrics of that step.

    Returns the model's id.
    """
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(run_id).info.experiment_id
    model_id = client.create_logged_model(
        experiment, MODEL_NAME, source_run_id=run_id, model_type="image classifier"
    ).model_id
    status = "FAILED"
    try:
        with temporary_folder("ltm-model-") as folder:
            save_model(network, inputs, folder, run_id=run_id, model_id=model_id)
            client.log_model_artifacts(model_id, str(folder))
        status = "READY"
    finally:
        client.finalize_logged_model(model_id, status)
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    _log_metrics(client, run_id, model_id, step)
    return str(model_id)


def _log_metrics(client: RetryingClient, run_id: str, model_id: str, step: int) -> None:
    """The run's validation metrics of that step, and what counts for the whole run."""
    from mlflow.entities import Metric

    rows = [
        Metric(row.key, row.value, row.timestamp, row.step, model_id=model_id)
        for key in client.get_run(run_id).data.metrics
        if key.startswith(("val/", "model/", "bench/"))
        for row in client.get_metric_history(run_id, key)
        if row.step == step or not key.startswith("val/")
    ]
    client.log_batch(run_id, metrics=rows)


def register_model(
    client: RetryingClient, run_id: str, model_id: str, name: str, aliases: Sequence[str]
) -> str:
    """Make a logged model the next version of a registered one; the aliases move to it.

    Returns the version.
    """
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if not exists_already(error):
            raise
    source = client.get_logged_model(model_id).artifact_location
    version = client.create_model_version(name, source, run_id=run_id, model_id=model_id).version
    link_to_version(client, model_id, name, version)
    for alias in aliases:
        client.set_registered_model_alias(name, alias, version)
    return str(version)
