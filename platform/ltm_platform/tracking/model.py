"""A trained network as an MLflow model."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_LOADER = Path(__file__).with_name("classifier.py")
_CODE = "ltm_image_classifier"
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

    package = importlib.util.find_spec("ltm")
    assert package
    assert package.submodule_search_locations
    model = Model(run_id=run_id, model_uuid=model_id, model_id=model_id)
    mlflow.pytorch.save_model(
        network,
        str(folder),
        mlflow_model=model,
        code_paths=[package.submodule_search_locations[0]],
        pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in _REQUIRED],
        serialization_format="pickle",
    )
    (folder / "data" / "inputs.json").write_text(json.dumps(asdict(inputs)))
    (folder / "code" / f"{_CODE}.py").write_text(_LOADER.read_text())
    pyfunc.add_to_model(
        model,
        loader_module=_CODE,
        data="data",
        code="code",
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"device": None},
    )
    model.save(str(folder / "MLmodel"))
