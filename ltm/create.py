"""Build a model: a timm backbone, a method that merges its tokens, and a plan."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from timm.models import load_state_dict

from ltm.backbones import find_backbone
from ltm.budget import fit_budget
from ltm.errors import FieldError
from ltm.flops import image_size_of
from ltm.interfaces import compressible
from ltm.methods import build_method, check_method, reduces
from ltm.structure import prunable, smaller

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from ltm.backbones import MergingModel
    from ltm.interfaces import Plan
    from ltm.structure import PrunableModel


def create_model(
    backbone: str,
    method: str = "ltm",
    *,
    compression_ratio: float | None = None,
    plan: Plan | None = None,
    target_gmacs: float | None = None,
    num_classes: int = 1000,
    image_size: int | tuple[int, int] | None = None,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    drop_path: float = 0.0,
    **method_options: Any,
) -> nn.Module:
    """A timm model whose tokens merge.

    backbone: timm's name, a short one ("vit_s") or the paper's ("ltm_mobilevit_s"); see
        `list_backbones`.
    method: see `list_methods`; "none" is timm's own model, which takes no ratio and no plan.
    compression_ratio: kept fraction of tokens in (0, 1]; 1 computes exactly what the base does.
        Of a method that removes heads and units, or "smaller", the kept fraction of the MACs.
    plan: what each site keeps, such as {"blocks.0": 157}; see `ltm.plan`. Heads or units, such as
        {"blocks.0.attn": 4}, of a method that removes them, {"depth": 9} of "smaller".
    target_gmacs: a budget in 1e9 multiply-accumulates an image; the plan that comes closest from
        below is taken, logged, and stands in `model.plan`. At most one of ratio, plan and budget;
        without any it is the published plan, or a ratio of 0.8.
    image_size: pixels, one number or (height, width); the default is the backbone's own.
    pretrained: load timm's weights from its hub.
    checkpoint: a local file of weights, safetensors or torch; a backbone's alone will do.
    drop_path: stochastic depth rate of the last block, in [0, 1).
    method_options: what the method takes, such as `rank=16` of ltm, and of all that reduce tokens
        `r` (tokens that leave in every block, or a list with one number a block, or the part that
        leaves every block, in the place of a ratio, plan or budget), `schedule` (how a ratio or r
        is spent, see `ltm.plan.SCHEDULES`) and `pool_by_size` (true: a head that averages the
        tokens of a plain ViT weighs each by its size, for a method whose attention does, too).

    FieldError for a name, number or option that is not possible, with those that are.
    """
    name, family = find_backbone(backbone)
    check_method(method)
    if not 0 <= drop_path < 1:
        raise FieldError("drop_path", drop_path, "a number in [0, 1)")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    build = partial(family.build, name, size, num_classes=num_classes, drop_path_rate=drop_path)
    wishes = {"compression_ratio": compression_ratio, "plan": plan, "target_gmacs": target_gmacs}
    if method != "none" and reduces(method) == "size":
        model = built_smaller(name, build, method, wishes, method_options, pretrained=pretrained)
    else:
        base = build(pretrained=pretrained)
        model = merged(name, family, base, method, wishes, method_options)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def merged(
    name: str,
    family: type[MergingModel],
    model: nn.Module,
    method: str,
    wishes: Mapping[str, Any],
    method_options: Mapping[str, Any],
) -> nn.Module:
    """timm's model, with a method and the compression that `wishes` names, at most one.

    wishes: compression_ratio, plan and target_gmacs, as in `create_model`; None is no wish.
    """
    given = _given(wishes)
    if method == "none":
        if method_options or (given and given != {"compression_ratio": 1}):
            refused = [*given, *(f"options.{option}" for option in method_options)][0]
            value = {**given, **{f"options.{k}": v for k, v in method_options.items()}}[refused]
            problem = "is given to method 'none', which merges nothing"
            raise FieldError(refused, value, "a method that merges", problem)
        return model
    if reduces(method) == "structure":
        return _pruned(name, model, method, given, method_options)
    if reduces(method) == "size":
        problem = f"is {method!r}, which builds another network"
        raise FieldError("method", method, "a method that changes this one", problem)
    merging = family.from_timm(model)
    merging.timm_name = name
    merging.image_size = image_size_of(model)
    to = given.get("plan", given.get("compression_ratio"))
    options = dict(method_options)
    schedule, r = options.pop("schedule", None), options.pop("r", None)
    pool_by_size = options.pop("pool_by_size", False)
    if r is not None and given:
        raise FieldError("options.r", r, "one of them", f"is given beside {next(iter(given))}")
    build = partial(build_method, method, options=options)
    merging.attach(build, to, r=r, schedule=schedule, pool_by_size=pool_by_size)
    if "target_gmacs" in given:
        fit_budget(merging, given["target_gmacs"])
    return merging


def built_smaller(
    name: str,
    build: Callable[..., Any],
    method: str,
    wishes: Mapping[str, Any],
    method_options: Mapping[str, Any],
    *,
    pretrained: bool,
) -> nn.Module:
    """timm's model in another size, which `build` makes by timm's own arguments.

    wishes: as in `merged`.
    """
    if pretrained:
        problem = f"is true, but nobody published weights for the size of method {method!r}"
        raise FieldError("pretrained", pretrained, problem=problem)
    given = _given(wishes)
    control = build_method(method, {}, method_options)
    to = given.get("plan", given.get("compression_ratio"))
    model = smaller(build, control, control.part, to, given.get("target_gmacs"))
    model.timm_name = name
    return model


def _given(wishes: Mapping[str, Any]) -> dict[str, Any]:
    """The wish that was given, one at most."""
    given = {wish: value for wish, value in wishes.items() if value is not None}
    if len(given) > 1:
        first, *others = given
        problem = f"is given beside {' and '.join(others)}"
        raise FieldError(first, given[first], "one of them", problem)
    return given


def _pruned(
    name: str,
    model: nn.Module,
    method: str,
    given: Mapping[str, Any],
    method_options: Mapping[str, Any],
) -> PrunableModel:
    """timm's model with gates, closed until it has the compression that was given."""
    pruned: PrunableModel = prunable(name, method, model)
    pruned.method = build_method(method, {}, method_options)
    to = given.get("plan", given.get("compression_ratio"))
    if "target_gmacs" in given:
        to = pruned.ratio_of(given["target_gmacs"])
    pruned.set_compression(to)
    return pruned


def load_checkpoint(model: nn.Module, path: str | Path, *, new_classifier: bool = False) -> bool:
    """Load weights from a local file (safetensors, or torch with weights_only).

    Those of the method may be absent: then it starts as it was. Position embeddings of another
    image size are interpolated as timm does. A model from which heads and units may leave takes the
    shape of the weights, and what they had closed is removed. FieldError names other keys that are
    absent, unknown or of another shape; the model then keeps its weights, if not its shape changed.

    new_classifier: the model's own stays where the file's is for another number of classes.
    Returns whether it stayed.
    """
    if not Path(path).is_file():
        problem = f"is {str(path)!r}, which is not a file"
        raise FieldError("checkpoint", str(path), problem=problem)
    loaded: Mapping[str, Tensor] = load_state_dict(str(path), device="cpu", weights_only=True)
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
    for keys, problem in ((missing, "lacks"), (unknown, "has unknown"), (shaped, "misshapes")):
        if keys:
            shown = ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise FieldError("checkpoint", str(path), problem=f"{str(path)!r} {problem} {shown}")
    model.load_state_dict(loaded, strict=False)  # what is missing may be
    compression.after_load(loaded)
    return bool(kept)


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


def _kept_classifier(model: Any, loaded: Mapping[str, Tensor]) -> set[str]:
    """Keys of the model's classifier if it has another shape than the one that is loaded."""
    classifier = model.get_classifier()
    name = next(name for name, module in model.named_modules() if module is classifier)
    own = {f"{name}.{key}": tensor for key, tensor in classifier.state_dict().items()}
    other = [k for k in own if k in loaded and loaded[k].shape != own[k].shape]
    return set(own) if other else set()


def compacted(model: nn.Module) -> nn.Module:
    """Any model as it is used after training: itself, or a smaller copy that computes the same."""
    return compressible(model).compacted()
