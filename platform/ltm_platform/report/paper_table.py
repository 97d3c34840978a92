"""The published table with our measured results beside it.

A run stands beside a published figure only if it is of ImageNet-1k, which is decided by what is
recorded of it: its ``data.path`` names ImageNet, its network has 1000 classes by the count of its
parameters, and an epoch has as many images, or its validation where nothing was trained. Every
other run is listed apart, with its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltm_platform.tracking import EVALUATED_TAG, STOPPED_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ltm_platform.report.comparison import Tracked
    from ltm_platform.report.published import Figures, PublishedFigures, PublishedNetwork

FROM_SCRATCH = "from scratch"
_NAMES_OF_IMAGENET = ("imagenet", "ilsvrc")
_SHARE_LEFT_OUT = 0.01  # an import leaves out images that cannot be decoded
_STOPPED_TAG = "ltm.stopped_after_epoch"


@dataclass(frozen=True, slots=True)
class OwnFigures:
    """The best run of its kind: same network, method, regime, data and GMACs."""

    run: str
    backbone: str
    image_size: int | None
    method: str
    params_m: float | None
    gmacs: float | None
    gmacs_no_attention_matmul: float | None
    top1: float
    """Percent, of the best epoch, as is `ema_top1`."""
    ema_top1: float | None
    regime: str
    epochs: int
    data: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: a published result, one of ours, or the two beside each other."""

    network: str
    """As the paper calls it."""
    backbone: str
    image_size: int | None
    method: str
    attention_matmuls: bool
    """How GMACs are counted on this line."""
    published: Figures | None
    ours: OwnFigures | None

    @property
    def our_gmacs(self) -> float | None:
        """Ours, counted as the paper counts on this line."""
        if self.ours is None:
            return None
        return self.ours.gmacs if self.attention_matmuls else self.ours.gmacs_no_attention_matmul


@dataclass(frozen=True, slots=True)
class Results:
    """The published table with our runs on the same data, and our other results."""

    on_imagenet: list[Line]
    others: list[Line]


def results(table: PublishedFigures, runs: Iterable[Tracked]) -> Results:
    """Every published result with our runs of it, and apart from them all other runs.

    Only runs that have finished count.
    """
    finished = [run for run in runs if run.record.status == "FINISHED" and _validated(run)]
    same_data = [run for run in finished if is_imagenet(table, run)]
    candidates = _best_of_each(measure(run) for run in same_data)
    others = _best_of_each(measure(run) for run in finished if run not in same_data)
    lines: list[Line] = []
    for network in table.networks:
        own = [one for one in candidates if _is_network(one, network)]
        candidates = [one for one in candidates if one not in own]
        for method in dict.fromkeys([*network.results, *(one.method for one in own)]):
            ours = [one for one in own if one.method == method]
            # published figures are shown once, beside the first of ours
            lines.append(_line(network, method, network.results.get(method), *ours[:1]))
            lines += [_line(network, method, None, one) for one in ours[1:]]
    return Results(
        on_imagenet=lines,
        others=[
            Line(one.backbone, one.backbone, one.image_size, one.method, True, None, one)
            for one in [*candidates, *others]
        ],
    )


def _line(
    network: PublishedNetwork, method: str, figures: Figures | None, ours: OwnFigures | None = None
) -> Line:
    return Line(
        network=network.title,
        backbone=network.backbone,
        image_size=network.image_size,
        method=method,
        attention_matmuls=network.attention_matmuls,
        published=figures,
        ours=ours,
    )


def _validated(run: Tracked) -> bool:
    return run.best("val/top1") is not None


def is_imagenet(table: PublishedFigures, run: Tracked) -> bool:
    """Whether a run was trained and measured on all of ImageNet-1k, by all that is known of it."""
    path = run.record.params.get("data.path", "").lower()
    if not any(name in path for name in _NAMES_OF_IMAGENET):
        return False
    if EVALUATED_TAG in run.record.tags:
        images, all_images = run.record.metrics.get("val/images"), table.validation_images
    else:
        images, all_images = _images_per_epoch(run), table.training_images
    if images is None or abs(images - all_images) > _SHARE_LEFT_OUT * all_images:
        return False
    return _has_classes(run, table.classes)


def _images_per_epoch(run: Tracked) -> float | None:
    """The first epoch ends with its last optimizer step."""
    points, batch = run.curves.get("val/top1", ()), run.record.params.get("recipe.global_batch")
    return points[0].step * int(batch) if points and batch else None


def _has_classes(run: Tracked, classes: int) -> bool:
    """Whether the base network has as many parameters as with that many classes."""
    from ltm.catalogue.published import cost_of

    params, record = run.record.params, run.record
    try:
        size = _image_size(params)
        expected = cost_of(params["model.backbone"], "none", size, num_classes=classes).params_m
    except (KeyError, ValueError):  # a network of another version
        return False
    return abs(record.metrics.get("model/params_m_base", 0.0) - expected) < 1e-6


def measure(run: Tracked) -> OwnFigures:
    """The result of a run, in the terms of the table. It must have a validation top-1."""
    params, metrics, tags = run.record.params, run.record.metrics, run.record.tags
    top1 = run.best("val/top1")
    assert top1 is not None
    return OwnFigures(
        run=run.record.name,
        backbone=_timm_name(params.get("model.backbone", "")),
        image_size=_image_size(params),
        method=params.get("model.method", ""),
        params_m=metrics.get("model/params_m"),
        gmacs=metrics.get("model/gmacs"),
        gmacs_no_attention_matmul=metrics.get("model/gmacs_no_attention_matmul"),
        top1=top1,
        ema_top1=run.best("val/ema_top1"),
        regime=regime(params, tags),
        epochs=_epochs(params, tags),
        data=_data(params),
    )


def _epochs(params: Mapping[str, str], tags: Mapping[str, str]) -> int:
    """Those that were trained, where it ended early; none of an evaluation."""
    if EVALUATED_TAG in tags:
        return 0
    ended_early = tags.get(_STOPPED_TAG) or tags.get(STOPPED_TAG)
    return int(ended_early or params.get("recipe.epochs", "0"))


def _data(params: Mapping[str, str]) -> str:
    """The path, and which part of it where it was not all."""
    text = params.get("data.path", "")
    if (share := float(params.get("data.subset", "1"))) < 1:
        text += f", {100 * share:g} % of it"
    if fold := _given(params, "data.fold"):
        text += f", fold {fold} of {params.get('data.folds')}"
    return text


def regime(params: Mapping[str, str], tags: Mapping[str, str] | None = None) -> str:
    """How the weights were initialised and trained, by the job's fields and the tags."""
    if tags and EVALUATED_TAG in tags:
        return f"off-the-shelf, weights of {tags[EVALUATED_TAG]}"
    checkpoint = _given(params, "model.checkpoint")
    if params.get("model.pretrained") == "True":
        text = "fine-tuned from timm's weights"
    elif checkpoint:
        text = f"fine-tuned from {checkpoint}"
    else:
        text = FROM_SCRATCH
    if teacher := _given(params, "recipe.distill.teacher"):
        text += f", distilled from {teacher}"
    if _given(params, "model.elastic"):
        text += ", elastic"
    if params.get("recipe.freeze", "[]") != "[]":
        text += ", partly frozen"
    return text


def _given(params: Mapping[str, str], key: str) -> str | None:
    value = params.get(key, "None")
    return None if value == "None" else value


def _image_size(params: Mapping[str, str]) -> int | None:
    size = _given(params, "model.image_size")
    return int(size) if size else None


def _timm_name(backbone: str) -> str:
    from ltm.backbones import find_backbone

    try:
        return find_backbone(backbone)[0]
    except ValueError:
        return backbone


def _is_network(one: OwnFigures, network: PublishedNetwork) -> bool:
    return (one.backbone, one.image_size) == (network.backbone, network.image_size)


def _best_of_each(found: Iterable[OwnFigures]) -> list[OwnFigures]:
    """Of the runs of one kind the most accurate; those from scratch, as published, come first."""
    best: dict[tuple, OwnFigures] = {}
    for one in found:
        gmacs = float(f"{one.gmacs:.3g}") if one.gmacs else 0.0
        network = (one.data, one.backbone, one.image_size or 0, one.method)
        taught = (not one.regime.startswith(FROM_SCRATCH), one.regime, one.epochs)
        kind = (*network, *taught, gmacs)
        if kind not in best or one.top1 > best[kind].top1:
            best[kind] = one
    return [best[kind] for kind in sorted(best)]
