"""The bundled jobs: one for each row of the published table and its rivals, and fine-tuning."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ltm
from ltm.backbones import find_backbone
from ltm.catalogue.published import PUBLISHED
from ltm.methods import grids, reduces
from ltm_platform.job import JobSpec
from ltm_platform.models import create_model
from ltm_platform.report.published import Figures, PublishedNetwork, published

ROWS = (
    "ltm_mobilevit_xs",
    "ltm_mobilevit_s",
    "ltm_efficientvit_b1_r224",
    "ltm_efficientvit_b1_r288",
    "ltm_vit_s",
    "ltm_vit_b",
    "ltm_swin_t",
    "ltm_swin_b",
)
ROW_OF = dict(zip(ROWS, PUBLISHED, strict=True))


def cost(job: JobSpec) -> ltm.Count:
    """Of new weights: the published ones are not to be had in a test."""
    with torch.device("meta"):
        model = create_model(job.replace("model.pretrained", False), num_classes=1000)
        return ltm.count(ltm.compacted(model), job.model.image_size)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_table_has_a_job_that_lands_on_it(name: str) -> None:
    job, row = JobSpec.load(name), ROW_OF[name]
    assert (job.name, job.model.backbone, job.model.image_size) == (
        name,
        row.backbone,
        row.image_size,
    )
    ours = cost(job)
    assert row.ours(ours) == pytest.approx(row.gmacs, rel=0.025)
    assert ours.params_m == pytest.approx(row.params_m, rel=0.03)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_the_published_recipe(name: str) -> None:
    job = JobSpec.load(name)
    recipe = job.recipe
    assert (recipe.epochs, recipe.global_batch, recipe.warmup_epochs) == (300, 256, 5)
    assert (recipe.optimizer, recipe.weight_decay) == ("adamw", 0.01)
    assert (recipe.lr, recipe.min_lr) == (2e-4, 2e-5)
    assert (recipe.ema_decay, recipe.label_smoothing) == (0.9995, 0.1)
    assert (recipe.augment.auto_augment, recipe.augment.random_erasing) == ("rand-m9-mstd0.5", 0.2)
    assert (recipe.ib.weight, recipe.ib.warmup) == (0.1, 0.3)
    assert not job.model.pretrained
    assert (job.data.exif, job.data.background, job.data.decode) == (False, "hidden", "exact")
    assert [job.batch(workers).accumulation for workers in (1, 2, 4)] == [4, 2, 1]


def on_grid(network: PublishedNetwork) -> bool:
    return find_backbone(network.backbone)[1].needs_grid


RIVALS = [
    (network, method, result)
    for network in published().networks
    for method, result in network.results.items()
    if method in ltm.list_methods()
    and method not in ("none", "ltm")
    and not (reduces(method) == "tokens" and grids(method) == "refused" and on_grid(network))
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "method", "result"), RIVALS, ids=lambda value: getattr(value, "title", None)
)
def test_every_rival_of_the_table_has_a_job_at_its_published_cost(
    network: PublishedNetwork, method: str, result: Figures
) -> None:
    row = next(
        name
        for name, ours in ROW_OF.items()
        if (ours.backbone, ours.image_size) == (network.backbone, network.image_size)
    )
    job, ours = JobSpec.load(row.replace("ltm_", f"{method}_")), JobSpec.load(row)
    assert job.model.method == method
    assert job.recipe.ib.weight == 0
    spent = cost(job)
    gmacs = spent.gmacs if network.attention_matmuls else spent.gmacs_no_attention_matmul
    assert gmacs == pytest.approx(result.gmacs, rel=0.025)
    if method == "savit":  # prunes a trained network
        ours = JobSpec.load("ltm_finetune")
        assert job.model.pretrained
        assert job.recipe.distill.teacher == network.backbone
        job = job.replace("recipe.distill.teacher", None)
    same = job.replace("recipe.ib.weight", ours.recipe.ib.weight).recipe
    assert same == ours.recipe


def test_what_its_authors_do_not_train_begins_with_deits_weights() -> None:
    pitome, cubistmerge = JobSpec.load("pitome_vit_s"), JobSpec.load("cubistmerge_vit_s")
    for job in (pitome, cubistmerge):
        assert (job.model.backbone, job.model.pretrained) == ("deit_small_patch16_224", True)
        assert job.recipe.ib.weight == 0
    with torch.device("meta"):
        kept = [
            create_model(job.replace("model.pretrained", False), num_classes=1000).plan
            for job in (pitome, cubistmerge)
        ]
    tokens = 196
    for left in kept[0].values():  # 7.5 % less in each of twelve blocks
        assert left == pytest.approx(0.925 * tokens, abs=1)
        tokens = left
    assert len(kept[0]) == 12
    assert [*kept[1].values()] == [(12, 12)]


@pytest.mark.slow
def test_ltmp_on_vit_s_has_its_own_recipe() -> None:
    job = JobSpec.load("ltmp_vit_s")
    assert (job.recipe.epochs, job.recipe.lr, job.recipe.min_lr) == (1, 5e-3, 0)
    assert (job.recipe.optimizer, job.recipe.momentum, job.recipe.weight_decay) == (
        "momentum",
        0,
        0,
    )
    assert job.model.pretrained
    assert cost(job).gmacs == pytest.approx(0.75 * 4.54 + 0.06, rel=0.01)
    method = ltm.create_model("vit_nano_patch4_32", job.model.method).method
    assert method.freezes_backbone  # type: ignore[union-attr]
    assert method.rates() == {".prune.": 1e-3}  # type: ignore[union-attr, operator]


def test_dtem_on_vit_s_has_its_own_recipe() -> None:
    job = JobSpec.load("dtem_vit_s")
    assert (job.recipe.epochs, job.recipe.lr, job.recipe.min_lr) == (30, 1e-4, 1e-6)
    assert (job.recipe.mix.mixup, job.recipe.mix.cutmix, job.recipe.clip_grad) == (0.8, 1, 5)
    assert job.model.pretrained
    assert job.model.options == {"r": 16, "modular": True}
    assert cost(job).gmacs == pytest.approx(2.3, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.backbone)
def test_every_row_can_be_fine_tuned(row: ltm.Published) -> None:
    wishes = [f"model.backbone={row.backbone}", f"model.image_size={row.image_size}"]
    job = JobSpec.load("ltm_finetune", wishes)
    assert (job.recipe.epochs, job.model.pretrained) == (50, True)
    assert row.ours(cost(job)) == pytest.approx(row.gmacs, rel=0.025)


@pytest.mark.parametrize(
    ("method", "gmacs", "recipe"),
    [("s2vite", 2.329, (600, 512, 5e-4, 5)), ("savit", 0.7 * 4.599, (300, 1024, 1e-3, 0))],
)
def test_methods_that_remove_heads_and_units_have_their_own_recipe(
    method: str, gmacs: float, recipe: tuple[float, ...]
) -> None:
    job = JobSpec.load(f"{method}_vit_s")
    its = job.recipe
    assert (its.epochs, its.global_batch, its.lr, its.warmup_epochs) == recipe
    assert (its.min_lr, its.weight_decay, its.mix.mixup, its.mix.cutmix) == (1e-5, 0.05, 0.8, 1.0)
    assert (its.ib.weight, its.distill.teacher) == (0, None)
    assert job.model.pretrained == (method == "savit")
    assert cost(job).gmacs == pytest.approx(gmacs, rel=2e-3)


def test_s2vite_starts_with_half_of_the_heads_and_units_of_every_layer() -> None:
    job = JobSpec.load("s2vite_vit_s")
    with torch.device("meta"):
        plan = create_model(job, num_classes=1000).plan
    assert {n for name, n in plan.items() if name.endswith("attn")} == {3}
    assert {n for name, n in plan.items() if name.endswith("mlp")} == {768}


@pytest.mark.parametrize(
    ("name", "kept", "gmacs"),
    [("dynamicvit_vit_s", [137, 96, 67], 2.981), ("spvit_vit_s", [122, 74, 30], 2.475)],
)
def test_selectors_have_the_recipe_of_their_papers(
    name: str, kept: list[int], gmacs: float
) -> None:
    job = JobSpec.load(name)
    recipe, distill = job.recipe, job.recipe.distill
    with torch.device("meta"):
        model = create_model(job.replace("model.pretrained", False), num_classes=1000)
    assert list(model.plan.values()) == kept
    assert ltm.count(model, 224).gmacs == pytest.approx(gmacs, rel=1e-3)
    assert (recipe.epochs, recipe.ib.weight, job.model.pretrained) == (30, 0, True)
    assert (distill.teacher, distill.labels, distill.weight, distill.tokens) == (
        "itself",
        1,
        0.5,
        0.5,
    )
    assert (recipe.backbone.frozen_epochs, recipe.backbone.share) == (5, 0.01)
    assert recipe.backbone.constant == (name == "spvit_vit_s")
    per_image = {"spvit_vit_s": 5e-4 / 512, "dynamicvit_vit_s": 1e-3 / 1024}[name]
    assert recipe.lr / recipe.global_batch == pytest.approx(per_image)


def test_mctf_has_the_recipe_of_its_paper() -> None:
    job = JobSpec.load("mctf_vit_s")
    recipe = job.recipe
    with torch.device("meta"):
        model = create_model(job.replace("model.pretrained", False), num_classes=1000)
    assert list(model.plan.values()) == [196 - 16 * (i + 1) for i in range(11)]
    assert ltm.count(model, 224).gmacs == pytest.approx(2.6, rel=0.01)  # arXiv 2403.10030
    assert (recipe.epochs, recipe.ib.weight, job.model.pretrained) == (30, 0, True)
    assert (recipe.consistency.below, recipe.consistency.weight) == (8, 3)
    assert not recipe.mix.enabled


@pytest.mark.parametrize("epochs", [10, 1])
def test_calibration_teaches_the_mask_alone_and_from_no_label(epochs: int) -> None:
    job = JobSpec.load("ltm_calibrate", [f"recipe.epochs={epochs}"])
    recipe, distill = job.recipe, job.recipe.distill
    assert recipe.backbone.frozen_epochs == recipe.epochs == epochs
    assert (recipe.ib.weight, distill.teacher, distill.labels) == (0, "itself", 0)
    assert distill.weight > 0 < distill.features
    assert job.model.pretrained
    with torch.device("meta"):
        model: Any = create_model(job.replace("model.pretrained", False), num_classes=1000)
    assert all(mask.alike for mask in model.method.masks.values())
    assert model.plan == {"blocks.0": 157}
