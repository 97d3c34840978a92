"""Build a model: a timm backbone, a method that merges its tokens, and a plan."""

from __future__ import annotations

from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from torch import nn

from ltm._arguments import check_budget, check_count, check_image_size, check_mapping, check_rate
from ltm._compat import FeatureGetterNet, feature_take_indices
from ltm.backbones import MergingModel, find_backbone, find_family
from ltm.budget import fit_budget
from ltm.checkpoints import load_checkpoint
from ltm.errors import FieldError, first_line, quoted
from ltm.flops import image_size_of, unwrapped
from ltm.interfaces import compressible
from ltm.methods import (
    build_method,
    check_method,
    list_options,
    reduces,
    untrained_options,
)
from ltm.modes import unchanged_on_error
from ltm.plan import check_ratio
from ltm.structure import as_fast, prunable, smaller

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ltm.interfaces import Plan
    from ltm.structure import PrunableModel


_TIMM_OPTIONS = {"in_chans", "global_pool", "drop_rate", "class_token", "pretrained_cfg_overlay"}
"""Which timm passes on to every network."""
_RENAMED = {
    "img_size": "image_size",
    "drop_path_rate": "drop_path",
    "checkpoint_path": "checkpoint",
}


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
    checkpoint_prefix: str = "",
    strict: bool = True,
    new_classifier: bool = False,
    drop_path: float = 0.0,
    features_only: bool = False,
    out_indices: int | Sequence[int] | None = None,
    **options: Any,
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
    checkpoint_prefix, strict, new_classifier: how it is loaded, see
        `ltm.checkpoints.load_checkpoint`.
    drop_path: stochastic depth rate of the last block, in [0, 1).
    features_only: a network of feature maps, as timm's; its `model` is the one that merges.
    out_indices: which maps, as timm's; the last four when omitted.
    options: what the method takes, such as `rank=16` of ltm, and of all that reduce tokens `r`
        (tokens that leave in every block, or a list with one number a block, or the part that
        leaves every block, in the place of a ratio, plan or budget), `schedule` (how a ratio or r
        is spent, see `ltm.plan.SCHEDULES`) and `pool_by_size` (true: a head that averages the
        tokens of a plain ViT weighs each by its size, for a method whose attention does, too; None
        is where it can).
        And what timm's network takes, such as `in_chans`, `global_pool`, `drop_rate` or
        `class_token`.

    FieldError for a name, number or option that is not possible, with those that are.
    """
    name, family = find_backbone(backbone)
    check_method(method)
    wishes = _checked_wishes(compression_ratio, plan, target_gmacs)
    size = None if image_size is None else check_image_size(image_size)
    classes = check_count("num_classes", num_classes, 0)
    rate = check_rate("drop_path", drop_path)
    if out_indices is not None and not features_only:
        raise FieldError("out_indices", out_indices, "none without features_only")
    of_method, of_timm = _told_apart(family, method, options)
    build = partial(_built, name, family, size, of_timm, num_classes=classes, drop_path_rate=rate)
    if method != "none" and reduces(method) == "size":
        model = built_smaller(name, family, build, method, wishes, of_method, pretrained=pretrained)
    else:
        base = build(pretrained=pretrained)
        model = merged(name, family, base, method, wishes, of_method)
    if checkpoint is not None:
        load_checkpoint(
            model,
            checkpoint,
            new_classifier=new_classifier,
            strict=strict,
            prefix=checkpoint_prefix,
        )
    return _features(model, out_indices) if features_only else model


def patch(
    model: nn.Module,
    method: str = "ltm",
    *,
    compression_ratio: float | None = None,
    plan: Plan | None = None,
    target_gmacs: float | None = None,
    image_size: int | tuple[int, int] | None = None,
    **method_options: Any,
) -> Any:
    """Give a timm model that exists a method, in place, and return it: tokens merge from now on.

    Weights, their names, hooks, mode, device and precision stay; at ratio 1 it computes what it
    did, to the bit. Parameters of the method, where it has some, are new: an optimizer does not
    know them yet. A model that was patched before gets the other method. Patch before the model is
    wrapped (DDP, torch.compile).

    model: timm's, of a family that `list_backbones` lists, whoever made and trained it.
    method, compression_ratio, plan, target_gmacs, method_options: as in `create_model`, but for
        defaults that suit a network which is trained: `pool_by_size` is None, for the head has
        learned the mean of all tokens, and `start` of `ltm` is "alike".
    image_size: pixels of the images that are to come, where they are not those that the model was
        built for.

    FieldError, and no change, for a model, a number or an option that is not possible.
    """
    check_method(method)
    if method == "none":
        raise FieldError("method", method, "a method, at ratio 1 to merge nothing")
    wishes = _checked_wishes(compression_ratio, plan, target_gmacs)
    if not isinstance(model, nn.Module) or unwrapped(model) is not model:
        problem = f"is a {type(model).__name__}"
        raise FieldError("model", type(model).__name__, "timm's model itself", problem)
    family = find_family(model)
    method_options = untrained_options(method) | method_options
    with unchanged_on_error(model):
        size = None if image_size is None else check_image_size(image_size)
        return merged(_name_of(model), family, model, method, wishes, method_options, size)


def _name_of(model: Any) -> str:
    known = getattr(model, "timm_name", None) or getattr(model, "pretrained_cfg", None)
    name = known if isinstance(known, str) else (known or {}).get("architecture")
    return name or type(model).__name__


def _checked_wishes(ratio: object, plan: object, target_gmacs: object) -> dict[str, Any]:
    if plan is not None:
        check_mapping("plan", plan, '{"blocks.0": 157}')
    if ratio is not None:
        ratio = check_ratio(ratio)
    if target_gmacs is not None:
        target_gmacs = check_budget("target_gmacs", target_gmacs)
    return {"compression_ratio": ratio, "plan": plan, "target_gmacs": target_gmacs}


def _told_apart(
    family: type[MergingModel], method: str, options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the method, unknown ones among them, and those of timm's network."""
    for option in options.keys() & _RENAMED.keys():
        problem = f"is timm's name of what is {_RENAMED[option]} here"
        raise FieldError(option, options[option], problem=problem)
    timms = next((cls for cls in family.__mro__ if cls.__module__.startswith("timm.")), None)
    known = _TIMM_OPTIONS | ({*signature(timms).parameters} if timms else set())
    known -= {*list_options(method)}
    for_timm = {option: value for option, value in options.items() if option in known}
    return {key: options[key] for key in options if key not in for_timm}, for_timm


def _built(
    name: str,
    family: type[MergingModel],
    size: tuple[int, int] | None,
    options: Mapping[str, Any],
    **more: Any,
) -> nn.Module:
    """timm's network. FieldError for an option that it does not take."""
    options = dict(options)
    if "in_chans" in options:
        options["in_chans"] = check_count("in_chans", options["in_chans"])
    if "drop_rate" in options:
        options["drop_rate"] = check_rate("drop_rate", options["drop_rate"])
    try:
        model: nn.Module = family.build(name, size, **more, **options)
    except FieldError:
        raise
    except (TypeError, ValueError, AssertionError, KeyError, RuntimeError) as error:
        if not options:
            raise
        says = first_line(error)
        option = next((option for option in options if option in says), next(iter(options)))
        problem = f"is {quoted(options[option])}, which timm's {name} does not take: {says}"
        raise FieldError(option, options[option], problem=problem) from error
    return model


def _features(model: Any, out_indices: int | Sequence[int] | None) -> nn.Module:
    taken: dict[str, Any] = {} if out_indices is None else {"out_indices": out_indices}
    try:
        feature_take_indices(len(model.feature_info), out_indices)
        net: nn.Module = FeatureGetterNet(model, prune=False, **taken)
    except (TypeError, ValueError, AssertionError, IndexError) as error:
        problem = f"is {quoted(out_indices)}, which do not fit: {first_line(error)}"
        raise FieldError("out_indices", out_indices, problem=problem) from error
    return net


def merged(
    name: str,
    family: type[MergingModel],
    model: nn.Module,
    method: str,
    wishes: Mapping[str, Any],
    method_options: Mapping[str, Any],
    size: tuple[int, int] | None = None,
) -> Any:
    """timm's model, with a method and the compression that `wishes` names, at most one.

    wishes: compression_ratio, plan and target_gmacs, as in `create_model`; None is no wish.
    size: of images; the model's own when omitted.
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
        if isinstance(model, MergingModel):
            problem = f"is {method!r}, which removes heads and units, but tokens merge already"
            raise FieldError("method", method, "a method that reduces tokens", problem)
        return _pruned(name, model, method, given, method_options, size)
    if reduces(method) == "size":
        problem = f"is {method!r}, which builds another network"
        raise FieldError("method", method, "a method that changes this one", problem)
    merging = model if isinstance(model, MergingModel) else family.from_timm(model)
    merging.timm_name = name
    merging.image_size = image_size_of(merging)
    if size is not None and size != merging.image_size:
        merging.resize(size)
        merging.image_size = size
    to = given.get("plan", given.get("compression_ratio"))
    options = dict(method_options)
    schedule, r = options.pop("schedule", None), options.pop("r", None)
    pool_by_size = options.pop("pool_by_size", False)
    if r is not None and given:
        raise FieldError("options.r", r, "one of them", f"is given beside {next(iter(given))}")
    build = partial(build_method, method, options=options)
    merging.attach(build, to, r=r, schedule=schedule, pool_by_size=pool_by_size)
    if "target_gmacs" in given:
        fit_budget(merging, given["target_gmacs"], "target_gmacs")
    return merging


def built_smaller(
    name: str,
    family: type[MergingModel],
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
    if control.as_fast_as is None:
        to = given.get("plan", given.get("compression_ratio"))
        model = smaller(build, control, control.part, to, given.get("target_gmacs"))
    else:
        beside = merged(name, family, build(), control.as_fast_as, wishes, {})
        model = as_fast(build, control, control.part, beside)
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
    size: tuple[int, int] | None,
) -> PrunableModel:
    """timm's model with gates, closed until it has the compression that was given."""
    pruned: PrunableModel = prunable(name, method, model, size)
    pruned.method = build_method(method, {}, method_options)
    pruned.method.train(model.training)
    to = given.get("plan", given.get("compression_ratio"))
    if "target_gmacs" in given:
        to = pruned.ratio_of(given["target_gmacs"], "target_gmacs")
    pruned.set_compression(to)
    return pruned


def compacted(model: nn.Module) -> nn.Module:
    """Any model as it is used after training: itself, or a smaller copy that computes the same."""
    return compressible(model).compacted()
