"""The network, its method, its size and its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.checks import check_names
from ltm_platform.errors import UserError

from .conftest import JOB, checked, load, refusal

if TYPE_CHECKING:
    from pathlib import Path


def test_a_typo_in_the_backbone_is_told_with_place_and_nearest() -> None:
    text = JOB.replace("vit_nano_patch4_32", "vit_nano_patch4_23")
    line = refusal(text=text)
    assert line.startswith("jobs/x.yaml:2: model.backbone is 'vit_nano_patch4_23', ")
    assert "did you mean" in line
    assert "vit_nano_patch4_32" in line


def test_a_typo_in_the_method_is_told_with_place_and_nearest() -> None:
    line = refusal(text=JOB.replace("method: ltm", "method: ltn"))
    assert line.startswith("jobs/x.yaml:3: model.method is 'ltn', ")
    assert "did you mean 'ltm'" in line


def test_names_are_checked_without_data() -> None:
    with pytest.raises(UserError, match="did you mean 'ltm'"):
        check_names(load("model.method=ltn", "data.path=nowhere"))
    check_names(load("data.path=nowhere"))


def test_an_unknown_option_of_the_method_is_told_with_place_and_nearest() -> None:
    line = refusal(text=JOB.replace("rank: 8", "rnk: 8"))
    assert line.startswith(("jobs/x.yaml:5: model.options", "jobs/x.yaml:6: model.options"))
    assert "model.options.rnk is no option of method 'ltm'" in line
    assert "did you mean 'rank'" in line


@pytest.mark.parametrize("value", ["0", "text", "-1", "2.5"])
def test_an_impossible_value_of_an_option_is_refused(value: str) -> None:
    line = refusal(text=JOB.replace("rank: 8", f"rank: {value}"))
    assert line.startswith("jobs/x.yaml:6: model.options.rank is ")
    assert "allowed is a whole number from 1" in line


def test_an_override_of_all_options_is_refused_by_the_option_that_is_wrong() -> None:
    line = refusal("model.options={rank: 0}")
    assert line.startswith("--set model.options={rank: 0}: model.options.rank is 0, allowed is ")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("engine.zero_stage=3", "needs engine.zero_stage from 0 to 2"),
        ("engine.compile=true", "needs engine.compile false"),
        ("model.elastic=[0.5, 1.0]", "needs model.elastic null"),
        ("model.backbone=swin_nano_patch2_window4_32", "cannot remove heads and units of swin"),
        ("model.compression_ratio=0.001", "model.compression_ratio is 0.001, allowed"),
    ],
)
def test_what_methods_that_remove_heads_and_units_cannot_do_is_told(
    override: str, says: str
) -> None:
    text = JOB.replace("method: ltm", "method: savit").replace("rank: 8", "images: 64")
    line = refusal(override, text=text)
    assert line.startswith("--set ") or "model.method" in line
    assert says in line


def test_a_method_that_is_made_for_one_plan_cannot_be_elastic() -> None:
    text = JOB.replace("method: ltm", "method: sinkhorn").replace("rank: 8", "rounds: 2")
    line = refusal("model.elastic=[0.5, 1.0]", text=text)
    assert line.startswith("--set model.elastic=")
    assert "model.method 'sinkhorn' needs model.elastic null: its weights are made for one" in line
    assert checked(text=text).job.model.elastic is None


def test_a_smaller_network_is_counted_beside_the_whole_one() -> None:
    text = JOB.replace("method: ltm", "method: smaller").replace("rank: 8", "how: narrower")
    got = checked(text=text)
    assert got.cost.gmacs <= 0.7 * got.base_cost.gmacs
    assert got.cost.params_m < 0.5 * got.base_cost.params_m
    assert "model.pretrained is true, but nobody" in refusal("model.pretrained=true", text=text)
    assert "needs model.elastic null" in refusal("model.elastic=[0.5, 1.0]", text=text)
    assert "model.options.how is 'wide', allowed are shallower" in refusal(
        "model.options.how=wide", text=text
    )


def test_a_measured_size_stands_in_the_job_in_the_place_of_what_it_was_found_by() -> None:
    text = JOB.replace("method: ltm", "method: smaller").replace("rank: 8", "as_fast_as: tome")
    got = checked(text=text)
    model = got.job.model
    assert (model.options, model.compression_ratio, model.target_gmacs) == ({}, None, None)
    assert model.plan is not None
    assert 1 <= model.plan["depth"] <= 4  # type: ignore[operator]
    assert any("as fast as tome on this machine" in notice for notice in got.notices)


def test_without_a_compiler_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    assert "no C++ compiler" in refusal("engine.compile=true")
    assert checked("engine.compile=false").job.engine.compile is False


def test_a_pruned_network_is_counted_as_it_will_be() -> None:
    text = JOB.replace("method: ltm", "method: s2vite").replace("rank: 8", "share: 0.2")
    got = checked("engine.zero_stage=2", text=text)
    assert 0.68 < got.cost.gmacs / got.base_cost.gmacs <= 0.7
    assert got.cost.params_m < got.base_cost.params_m
    assert not got.notices


def test_scores_of_random_weights_are_worth_a_word() -> None:
    text = JOB.replace("method: ltm", "method: savit").replace("rank: 8", "images: 64")
    (notice,) = checked(text=text).notices
    assert "give model.pretrained or model.checkpoint" in notice


def test_a_typo_in_the_optimizer_is_told_with_place_and_nearest() -> None:
    line = refusal("recipe.optimizer=adamww")
    assert line.startswith("--set recipe.optimizer=adamww: recipe.optimizer is 'adamww', ")
    assert "did you mean 'adamw'" in line


@pytest.mark.parametrize("optimizer", ["lamb", "lars", "muon", "adafactor", "adamp"])
def test_an_optimizer_of_whole_tensors_is_refused_where_zero_cuts_them(optimizer: str) -> None:
    assert "engine.zero_stage=0" in refusal(f"recipe.optimizer={optimizer}")
    whole = checked(f"recipe.optimizer={optimizer}", "engine.zero_stage=0")
    assert whole.job.recipe.optimizer == optimizer


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion", "nadamw"])
def test_an_optimizer_of_single_weights_is_taken(optimizer: str) -> None:
    assert checked(f"recipe.optimizer={optimizer}").job.recipe.optimizer == optimizer


def test_an_unreadable_augmentation_is_refused() -> None:
    line = refusal("recipe.augment.auto_augment=rnd-m9")
    assert "recipe.augment.auto_augment is 'rnd-m9'" in line


def test_weights_that_nobody_published_are_refused() -> None:
    line = refusal("model.pretrained=true")
    assert line.startswith("--set model.pretrained=true: model.pretrained is ")


def test_the_image_size_is_filled_in() -> None:
    assert load().model.image_size is None
    assert checked().job.model.image_size == 32


def test_another_image_size_is_kept() -> None:
    small, large = checked("model.image_size=16"), checked("model.image_size=64")
    assert (small.job.model.image_size, large.job.model.image_size) == (16, 64)
    assert 3 < large.cost.gmacs / checked().cost.gmacs < 8
    assert small.cost.gmacs < checked().cost.gmacs


def test_an_image_size_that_the_backbone_cannot_take_is_refused() -> None:
    line = refusal("model.image_size=30")
    assert line.startswith("--set model.image_size=30: model.image_size is ")
    assert "multiples" in line


def test_merging_costs_less_than_the_base_and_a_little_more_weights() -> None:
    got = checked()
    assert 0 < got.cost.gmacs < got.base_cost.gmacs
    assert got.cost.params_m > got.base_cost.params_m > 0


def test_without_merging_the_cost_is_the_bases() -> None:
    got = checked("model.method=none", "model.options=null")
    assert got.cost == got.base_cost
