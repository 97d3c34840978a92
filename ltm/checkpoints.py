"""Weights of a file, for a model that may differ from the one that they are of."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.models import load_state_dict
from torch import Tensor

from ltm.errors import FieldError, first_line, quoted
from ltm.interfaces import compressible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

_logger = logging.getLogger(__name__)
_SHOWN = 5  # keys in a sentence
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
METHOD_WEIGHTS = "method.safetensors"
"""In a folder of weights: those of the method."""
CONFIG = "config.json"
"""In a folder of weights: timm's description of the network."""


def load_checkpoint(
    model: nn.Module,
    path: str | Path,
    *,
    new_classifier: bool = False,
    strict: bool = True,
    prefix: str = "",
) -> bool:
    """Load weights from a local file (safetensors, or torch with weights_only), or from a folder as
    timm and Hugging Face have them: `model.safetensors` or `pytorch_model.bin`, those of a method
    beside them in `method.safetensors`, and `config.json`, whose architecture has to be this one.

    Those of the method may be absent: then it starts as it was. Position embeddings of another
    image size are interpolated as timm does. A model from which heads and units may leave takes the
    shape of the weights, and what they had closed is removed. FieldError names other keys that are
    absent, unknown or of another shape; the model then keeps its weights, if not its shape changed.

    new_classifier: the model's own stays where the file has none, or one of another shape.
    strict: false leaves the model's own weights where the file's are absent or of another shape,
        ignores what is unknown, and logs both. A file of which nothing fits is an error even then.
    prefix: only weights whose keys begin with it are taken, without it.

    Returns whether the model's own classifier stayed.
    """
    if _is_folder(path):
        _check_architecture(model, Path(path))
    loaded = _without_prefix(_read(path), prefix, path)
    compression = compressible(model)
    compression.before_load(loaded)
    own = model.state_dict()
    for key in [k for k in own if k in loaded and loaded[k].shape != own[k].shape]:
        loaded = {**loaded, key: _resampled(model, key, loaded[key])}
    kept = _kept_classifier(model, loaded) if new_classifier else set()
    loaded = {**loaded, **{key: own[key] for key in kept}}
    missing = [k for k in own if k not in loaded and not compression.may_be_missing(k)]
    unknown = [k for k in loaded if k not in own]
    shaped = [k for k in loaded if k in own and loaded[k].shape != own[k].shape]
    fits = loaded.keys() - kept - {*unknown, *shaped}
    for keys, problem in ((missing, "lacks"), (unknown, "has unknown"), (shaped, "misshapes")):
        if keys and (strict or not fits):
            problem = f"{str(path)!r} {problem} {_shown(keys)}"
            raise FieldError("checkpoint", str(path), problem=problem)
        if keys:
            _logger.warning("checkpoint %s %s %s", path, problem, _shown(keys))
    loaded = {key: tensor for key, tensor in loaded.items() if key in fits | kept}
    model.load_state_dict(loaded, strict=False)  # what is missing may be
    compression.after_load(loaded)
    return bool(kept)


def _read(path: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, or those in a folder. FieldError for a file that is none, or
    not one of weights."""
    if _is_folder(path):
        return _read_folder(Path(path))
    if not isinstance(path, str | Path) or not Path(path).is_file():
        problem = f"is {str(path)!r}, which is not a file"
        raise FieldError("checkpoint", str(path), problem=problem)
    try:
        loaded = load_state_dict(str(path), device="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or foreign file makes its reader raise
        problem = f"is {str(path)!r}, which cannot be read as weights: {first_line(error)}"
        raise FieldError("checkpoint", str(path), problem=problem) from error
    for key, value in loaded.items():
        if not isinstance(value, Tensor):
            problem = f"is {str(path)!r}, whose {quoted(key)} is no tensor"
            raise FieldError("checkpoint", str(path), problem=problem)
    return loaded


def _is_folder(path: object) -> bool:
    return isinstance(path, str | Path) and Path(path).is_dir()


def _read_folder(folder: Path) -> Mapping[str, Tensor]:
    files = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if not files:
        problem = f"is the folder {str(folder)!r}, without {' and '.join(_WEIGHTS)}"
        raise FieldError("checkpoint", str(folder), problem=problem)
    of_method = folder / METHOD_WEIGHTS
    return {**_read(files[0]), **(_read(of_method) if of_method.is_file() else {})}


def _check_architecture(model: Any, folder: Path) -> None:
    """FieldError where a folder says that it is of another network."""
    config = folder / CONFIG
    if not config.is_file():
        return
    try:
        said = json.loads(config.read_text()).get("architecture")
    except (ValueError, AttributeError) as error:
        problem = f"is {str(folder)!r}, whose {CONFIG} cannot be read: {first_line(error)}"
        raise FieldError("checkpoint", str(folder), problem=problem) from None
    own = getattr(model, "timm_name", None) or (model.pretrained_cfg or {}).get("architecture")
    if isinstance(said, str) and isinstance(own, str) and said != own.partition(".")[0]:
        problem = f"is {str(folder)!r} with weights of {quoted(said)}, but the network is {own}"
        raise FieldError("checkpoint", str(folder), problem=problem)


def _without_prefix(
    loaded: Mapping[str, Tensor], prefix: str, path: str | Path
) -> Mapping[str, Tensor]:
    found = {k.removeprefix(prefix): v for k, v in loaded.items() if k.startswith(prefix)}
    if loaded and not found:
        problem = f"is {quoted(prefix)}, with which no key of {str(path)!r} begins"
        raise FieldError("checkpoint_prefix", prefix, f"such as in {_shown([*loaded])}", problem)
    return found


def _shown(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _resampled(model: Any, key: str, tensor: Tensor) -> Tensor:
    """Positions, absolute or relative, for the model's own grid or window."""
    owner, _, name = key.rpartition(".")
    if key == "pos_embed":
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        grid = model.patch_embed.grid_size
        return resample_abs_pos_embed(tensor, grid, num_prefix_tokens=prefix)
    if name == "relative_position_bias_table":
        attention = model.get_submodule(owner)
        shape = attention.relative_position_bias_table.shape
        return resize_rel_pos_bias_table(tensor, attention.window_size, shape)
    return tensor


def classifiers(model: Any) -> dict[str, nn.Module]:
    """timm's classifier by its name, or all where there are several, as in a distilled DeiT."""
    given = model.get_classifier()
    wanted = given if isinstance(given, tuple) else (given,)
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(one)]: one for one in wanted}


def _kept_classifier(model: Any, loaded: Mapping[str, Tensor]) -> set[str]:
    """Keys of the model's classifier if what is loaded has none, or one of another shape."""
    own = {
        f"{name}.{key}": tensor
        for name, classifier in classifiers(model).items()
        for key, tensor in classifier.state_dict().items()
    }
    other = [k for k in own if k not in loaded or loaded[k].shape != own[k].shape]
    return set(own) if other else set()
