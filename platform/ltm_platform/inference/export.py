"""Networks leave us: ONNX, torch.export, safetensors and timm's folder, each checked before it is
kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from safetensors.torch import save
from timm.models import save_for_hf

from ltm.checkpoints import CONFIG, METHOD_WEIGHTS
from ltm.errors import first_line
from ltm.interfaces import OF_METHOD
from ltm_platform.errors import RunError, UserError
from ltm_platform.models import create_model, load_weights
from ltm_platform.storage.files import written_whole
from ltm_platform.storage.manifest import JOB_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ltm_platform.inference.trained_network import StoredNetwork

Format = Literal["onnx", "pt2", "safetensors", "folder"]
FORMATS: tuple[Format, ...] = get_args(Format)

INPUT, OUTPUT = "images", "logits"
MAX_BATCH = 1024
TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the largest logit."""
_CHECKED_BATCHES = (1, 3)
METADATA_FILE = "ltm.json"
"""In a folder: what files of other formats have as metadata, but for the job."""

Forward = Callable[["Tensor"], "Tensor"]


def export(network: StoredNetwork, form: Format, path: Path) -> float:
    """Write the network to ``path``, whole or not at all; the largest difference of a logit.

    The file is read back and compared with the network on batches of several sizes. ONNX and
    torch.export take any batch of normalised images [B, 3, H, W], safetensors hold the weights for
    ``ltm.create_model(..., checkpoint=...)``; all of them carry `metadata`. A folder is one of
    timm's: ``timm.create_model("local-dir:PATH", pretrained=True)`` makes the base network of it,
    ``ltm.create_model(..., checkpoint=PATH)`` the trained one.

    Raises:
        UserError: a package is missing that this format needs.
        RunError: it cannot be written so, or what was written does not compute what the network
            does; nothing is kept.
    """
    write: dict[Format, Callable[[StoredNetwork, Path], None]] = {
        "onnx": _write_onnx,
        "pt2": _write_pt2,
        "safetensors": _write_safetensors,
        "folder": _write_folder,
    }
    read: dict[Format, Callable[[StoredNetwork, Path], Forward]] = {
        "onnx": _read_onnx,
        "pt2": _read_pt2,
        "safetensors": _read_safetensors,
        "folder": _read_safetensors,
    }
    if form == "onnx":
        _need_onnx()
    with written_whole(path) as part, torch.no_grad():
        try:
            write[form](network, part)
        except Exception as error:  # whatever an exporter makes of an operator it does not know
            reason = first_line(error)
            raise RunError(f"the network cannot be written as {form}: {reason}") from error
        difference = _difference(network, read[form](network, part))
        if not difference <= TOLERANCE:
            raise RunError(
                f"the exported network differs from the trained one by {difference:.2g} of its "
                f"largest logit, more than {TOLERANCE:g}: nothing was kept"
            )
    return difference


def metadata(network: StoredNetwork) -> dict[str, str]:
    """What a user of the file must know: its input, its classes, and how it was trained."""
    written = {key: json.dumps(value) for key, value in _figures(network).items()}
    return written | {"ltm.job": network.job.to_yaml()}


def _figures(network: StoredNetwork) -> dict[str, Any]:
    pixels = network.pixels
    return {
        "ltm.image_size": pixels.size,
        "ltm.mean": pixels.mean,
        "ltm.std": pixels.std,
        "ltm.exif": network.job.data.exif,
        "ltm.background": network.job.data.background,
        "ltm.classes": network.classes,
        "ltm.plan": getattr(network.model, "plan", {}),
        "ltm.weights": network.weights,
    }


def _images(network: StoredNetwork, batch: int) -> Tensor:
    size = network.pixels.size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def _difference(network: StoredNetwork, forward: Forward) -> float:
    worst = 0.0
    for batch in _CHECKED_BATCHES:
        images = _images(network, batch)
        expected, found = network.model(images), forward(images)
        if expected.shape != found.shape or not found.isfinite().all():
            return float("inf")
        worst = max(worst, float((expected - found).abs().max() / expected.abs().max()))
    return worst


def _program(network: StoredNetwork) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    # An example of one image would fix the batch to one.
    return torch.export.export(network.model, (_images(network, 2),), dynamic_shapes=({0: batch},))


def _write_pt2(network: StoredNetwork, path: Path) -> None:
    torch.export.save(_program(network), path, extra_files=metadata(network))


def _read_pt2(_: StoredNetwork, path: Path) -> Forward:
    return torch.export.load(path).module()


def _write_onnx(network: StoredNetwork, path: Path) -> None:
    # What torch's own optimiser of graphs would fold, onnxruntime folds when it loads them.
    program: Any = torch.onnx.export(
        _program(network),
        dynamo=True,
        optimize=False,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
    )
    program.model.metadata_props.update(metadata(network))
    program.save(path)


def _read_onnx(_: StoredNetwork, path: Path) -> Forward:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def _write_safetensors(network: StoredNetwork, path: Path) -> None:
    weights = {key: tensor.contiguous() for key, tensor in network.model.state_dict().items()}
    # save_file would make a file that no other user can read
    path.write_bytes(save(weights, metadata={"format": "pt", **metadata(network)}))


def _write_folder(network: StoredNetwork, path: Path) -> None:
    base = create_model(network.job, len(network.classes), method="none")
    weights = {key: tensor.contiguous() for key, tensor in network.model.state_dict().items()}
    own = {key for key in weights if key.startswith(OF_METHOD)}
    base.load_state_dict({key: tensor for key, tensor in weights.items() if key not in own})
    config = {"label_names": list(network.classes)}
    data = {"mean": network.pixels.mean, "std": network.pixels.std}
    save_for_hf(base, str(path), config, safe_serialization=True, data_config=data)
    if own:
        of_method = {key: weights[key] for key in own}
        (path / METHOD_WEIGHTS).write_bytes(save(of_method, metadata={"format": "pt"}))
    (path / METADATA_FILE).write_text(json.dumps(_figures(network), indent=2))
    (path / JOB_FILE).write_text(network.job.to_yaml())
    for file in path.iterdir():  # safetensors makes one that no other user can read
        file.chmod((path / CONFIG).stat().st_mode)


def _read_safetensors(network: StoredNetwork, path: Path) -> Forward:
    model = create_model(network.job, len(network.classes))
    load_weights(model, path)
    if plan := getattr(network.model, "plan", None):
        model.set_compression(plan)
    return model.eval()


def _need_onnx() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format onnx needs {' and '.join(missing)}: pip install 'ltm-platform[onnx]'"
        )
