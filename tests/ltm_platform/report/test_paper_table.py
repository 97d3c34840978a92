"""The published table, and which of our runs may stand beside it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from ltm.catalogue.published import PUBLISHED, cost_of
from ltm_platform.report.paper_table import Line, measure, regime, results
from ltm_platform.report.published import published

if TYPE_CHECKING:
    from ltm_platform.report.comparison import Tracked

    from .conftest import MakeRun

IMAGES, BATCH = 1_281_167, 256


@cache
def base_params(classes: int) -> float:
    return cost_of("mobilevit_xs", "none", 224, num_classes=classes).params_m


def test_the_table_agrees_with_that_of_the_networks() -> None:
    rows = {(one.backbone, one.image_size): one for one in published().networks}
    assert len(rows) == len(PUBLISHED)
    for row in PUBLISHED:
        network = rows[row.backbone, row.image_size]
        base, ltm = network.results["none"], network.results["ltm"]
        assert (base.params_m, base.gmacs, base.top1) == (
            row.params_m,
            row.base_gmacs,
            row.base_top1,
        )
        assert (ltm.gmacs, ltm.top1) == (row.gmacs, row.top1)
        assert network.attention_matmuls == row.with_attention


@pytest.fixture
def trained(make_run: MakeRun) -> Any:
    """A run of MobileViT-XS, on all of ImageNet-1k if nothing else is said."""

    def make(
        name: str,
        top1: float = 75.0,
        *,
        path: str = "/data/imagenet",
        images: int = IMAGES,
        classes: int = 1000,
        method: str = "ltm",
        **further: Any,
    ) -> Tracked:
        steps = images // BATCH
        curves = {"val/top1": [(steps, 1.0), (2 * steps, top1), (3 * steps, top1 - 1)]}
        metrics = {
            "model/params_m_base": base_params(classes),
            "model/params_m": 2.4,
            "model/gmacs": 0.57,
            "model/gmacs_no_attention_matmul": 0.52,
        }
        params = {
            "model_backbone": "ltm_mobilevit_xs",
            "model_image_size": 224,
            "model_method": method,
            "data_path": path,
            "recipe_global_batch": BATCH,
            "recipe_epochs": 3,
        }
        return make_run(name, curves, metrics=metrics, **{**params, **further})

    return make


def ours(lines: list[Line]) -> list[tuple[str, str | None]]:
    return [(line.method, line.ours.run) for line in lines if line.ours]


def test_without_runs_ours_is_empty() -> None:
    found = results(published(), [])
    assert len(found.on_imagenet) == 31
    assert all(line.published and line.ours is None for line in found.on_imagenet)
    assert found.others == []


def test_a_run_on_imagenet_stands_beside_the_published_figure(trained: Any) -> None:
    found = results(published(), [trained("mine", tags={"ltm.stopped_after_epoch": "2"})])
    (line,) = [line for line in found.on_imagenet if line.ours]
    assert (line.network, line.method) == ("MobileViT-XS", "ltm")
    assert line.published
    assert line.published.top1 == 75.8
    assert line.ours
    assert (line.ours.top1, line.our_gmacs) == (75.0, 0.52)
    assert (line.ours.regime, line.ours.epochs) == ("from scratch", 2)
    assert line.ours.data == "/data/imagenet"
    assert found.others == []


@pytest.mark.parametrize(
    "less",
    [
        {"path": "digits"},
        {"path": "/data/photos"},
        {"path": "/data/imagenet-100", "classes": 100, "images": 126_689},
        {"path": "/data/imagenet", "classes": 10},
        {"path": "/data/imagenet/tenth", "images": 128_116},
    ],
)
def test_what_is_not_all_of_imagenet_never_stands_beside_it(
    trained: Any, less: dict[str, Any]
) -> None:
    found = results(published(), [trained("mine", **less)])
    assert ours(found.on_imagenet) == []
    (line,) = found.others
    assert line.published is None
    assert line.ours
    assert line.ours.data == less["path"]


def test_of_runs_of_one_kind_the_best_counts_and_each_kind_has_its_line(trained: Any) -> None:
    runs = [
        trained("worse", 74.0),
        trained("better", 76.0),
        trained("tuned", 77.0, model_pretrained=True),
        trained("broken", 99.0, status="FAILED"),
        trained("new-method", 70.0, method="dtem"),
        trained("other-size", 60.0, model_image_size=256),
    ]
    found = results(published(), runs)
    assert ours(found.on_imagenet) == [("ltm", "better"), ("ltm", "tuned"), ("dtem", "new-method")]
    beside = [line.published is not None for line in found.on_imagenet if line.ours]
    assert beside == [True, False, False]
    assert ours(found.others) == [("ltm", "other-size")]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({}, "from scratch"),
        ({"model.pretrained": "True"}, "fine-tuned from timm's weights"),
        ({"model.checkpoint": "/a.pt"}, "fine-tuned from /a.pt"),
        ({"recipe.distill.teacher": "vit_b"}, "from scratch, distilled from vit_b"),
        (
            {"model.elastic": "[0.5, 1.0]", "recipe.freeze": '["*.norm1"]'},
            "from scratch, elastic, partly frozen",
        ),
    ],
)
def test_the_regime_is_what_the_job_says(params: dict[str, str], text: str) -> None:
    defaults = {"model.pretrained": "False", "model.checkpoint": "None", "recipe.freeze": "[]"}
    assert regime({**defaults, **params}) == text


def test_a_method_put_on_trained_weights_is_off_the_shelf(make_run: MakeRun) -> None:
    metrics = {"model/params_m_base": base_params(1000), "val/images": 50_000}
    run = make_run(
        "base-tome-1",
        {"val/top1": [(0, 60.0)]},
        tags={"ltm.evaluated": "base-1"},
        metrics=metrics,
        model_backbone="ltm_mobilevit_xs",
        model_image_size=224,
        model_method="tome",
        data_path="/data/imagenet",
        recipe_epochs=300,
    )
    (line,) = [line for line in results(published(), [run]).on_imagenet if line.ours]
    assert line.ours
    assert (line.method, line.ours.regime, line.ours.epochs) == (
        "tome",
        "off-the-shelf, weights of base-1",
        0,
    )
    assert line.published


def test_a_trial_tells_what_it_had_of_the_epochs_and_of_the_data(trained: Any) -> None:
    params = {"data_subset": 0.1, "data_fold": 0, "data_folds": 5}
    found = measure(trained("trial", tags={"ltm.stopped_early": "1"}, **params))
    assert found.epochs == 1
    assert found.data == "/data/imagenet, 10 % of it, fold 0 of 5"
