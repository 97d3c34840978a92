"""What training is asked to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_platform.ray_cluster.resources import Resources

from .conftest import checked, load, refusal


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("recipe.freeze=[patch_embd]", "recipe.freeze holds 'patch_embd', which is no part of"),
        ("recipe.freeze=['*']", "recipe.freeze is *, which leaves nothing to train"),
        ("model.checkpoint=nowhere.pt", "model.checkpoint is "),
        ("engine.precision=fp16", "engine.precision is 'fp16', which needs GPUs: use 'bf16'"),
        ("recipe.distill.teacher=vit_nono", "recipe.distill.teacher is 'vit_nono', but "),
        ("recipe.distill.teacher=jobs", "recipe.distill.teacher is "),
    ],
)
def test_what_the_recipe_cannot_do_is_refused(override: str, expected: str) -> None:
    assert refusal(override).startswith(f"--set {override}: {expected}")


def test_the_nearest_part_is_told() -> None:
    assert "did you mean 'patch_embed'?" in refusal("recipe.freeze=[patch_embd]")


@pytest.mark.parametrize(
    ("overrides", "taken"),
    [
        (["recipe.micro_batch=1", "recipe.global_batch=48"], 1),
        (["recipe.global_batch=42"], 21),
        (["recipe.global_batch=42", "recipe.micro_batch=auto"], 21),
    ],
)
def test_mixing_needs_pairs(overrides: list[str], taken: int) -> None:
    line = refusal("recipe.mix.mixup=0.8", *overrides)
    assert f"recipe.mix mixes pairs of images, but each worker takes {taken} at a time" in line


def test_fp16_is_for_gpus() -> None:
    got = checked("engine.precision=fp16", resources=Resources(cpus=8, gpus=2))
    assert got.job.engine.precision == "fp16"


def test_precision_is_left_to_gpus_and_known_on_cpus() -> None:
    assert checked().job.engine.precision == "fp32"
    assert checked().job.engine.channels_last is False
    there = checked(resources=Resources(cpus=8, gpus=2)).job.engine
    assert (there.precision, there.channels_last) == ("auto", "auto")
    assert checked("engine.precision=bf16").job.engine.precision == "bf16"


def test_a_setting_that_deepspeed_does_not_know_is_refused() -> None:
    line = refusal("engine.deepspeed={prescale_gradient: true}", "engine.zero_stage=1")
    assert "engine.deepspeed has prescale_gradient, but " in line
    assert line.endswith("is no setting of DeepSpeed's; did you mean 'prescale_gradients'?")
    checked("engine.deepspeed={prescale_gradients: true}", "engine.zero_stage=1")


def test_start_weights_are_loaded_and_a_new_classifier_is_said() -> None:
    import torch

    from ltm_platform.models import create_model

    torch.save(create_model(load(), 7).state_dict(), "w.pt")
    got = checked("model.checkpoint=w.pt")
    assert got.job.model.checkpoint == str(Path("w.pt").resolve())
    assert got.notices == ("the classifier starts anew: the data has 10 classes",)


def test_the_paths_of_a_teacher_are_made_absolute() -> None:
    import torch

    from ltm_platform.models import create_model

    torch.save(create_model(load(), 10, method="none").state_dict(), "w.pt")
    named = ["recipe.distill.teacher=vit_nano_patch4_32", "recipe.distill.checkpoint=w.pt"]
    distill = checked(*named).job.recipe.distill
    assert (distill.teacher, distill.checkpoint) == (
        "vit_nano_patch4_32",
        str(Path("w.pt").resolve()),
    )


def test_the_micro_batch_may_be_left_to_the_workers() -> None:
    got = checked("recipe.micro_batch=auto", "cluster.workers=2")
    assert got.job.recipe.micro_batch == "auto"
    assert (got.batch.global_batch, got.batch.micro_batch) == (64, 32)


def test_offload_is_for_gpus_but_does_no_harm() -> None:
    (notice,) = checked("engine.offload=optimizer").notices
    assert notice.startswith("engine.offload saves nothing here")
    assert checked("engine.offload=optimizer", resources=Resources(cpus=4, gpus=2)).notices == ()
