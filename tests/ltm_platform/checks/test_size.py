"""A size or a recipe that another backbone's file brought is never silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_platform.checks import check_job
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec

README = """\
extends: quickstart
model:
  backbone: vit_base_patch16_224
data:
  path: /data/imagenet
"""
SMALL = """\
extends: quickstart
model:
  backbone: swin_nano_patch2_window4_32
"""


def load(text: str, *overrides: str) -> JobSpec:
    Path("jobs/y.yaml").write_text(text)
    return JobSpec.load("jobs/y.yaml", overrides)


def refusal(job: JobSpec) -> str:
    with pytest.raises(UserError) as error:
        check_job(job)
    (line,) = str(error.value).splitlines()
    return line


def test_a_vit_b_at_the_quickstarts_32_pixels_has_to_be_meant() -> None:
    line = refusal(load(README))
    assert "jobs/quickstart.yaml:" in line
    assert "model.image_size is 32, which is for vit_nano_patch4_32" in line
    assert "the own size of vit_base_patch16_224 is 224" in line
    assert "--set model.image_size=32" in line


@pytest.mark.parametrize("size", ["null", "32", "224"])
def test_what_the_job_itself_says_is_meant(size: str) -> None:
    job = load(README.replace("data:", f"  image_size: {size}\ndata:"))
    assert not [notice for notice in check_job(job) if " px: " in notice]
    assert check_job(load(README, f"model.image_size={size}"))  # the recipe is still another's


def test_a_backbone_that_is_typed_does_not_make_the_files_size_its_own() -> None:
    line = refusal(JobSpec.load("quickstart", ["model.backbone=vit_base_patch16_224"]))
    assert "model.image_size is 32, which is for vit_nano_patch4_32" in line


def test_a_size_of_half_or_more_is_a_notice() -> None:
    Path("jobs/base.yaml").write_text(README.replace("data:", "  image_size: 112\ndata:"))
    notices = check_job(load("extends: base.yaml\nmodel:\n  backbone: mobilevit_s\n"))
    assert notices[0] == (
        "112 px: the backbone's own is 224 (jobs/base.yaml:4 is for vit_base_patch16_224)"
    )


def test_a_recipe_of_another_backbone_is_named_with_its_fields() -> None:
    (notice,) = check_job(load(SMALL))
    assert notice.startswith("recipe made for vit_nano_patch4_32: epochs, global_batch, lr, ")
    (fewer,) = check_job(load(SMALL + "recipe:\n  lr: 1e-3\n", "recipe.ema_decay=null"))
    assert " lr," not in fewer
    assert "ema_decay" not in fewer
    assert check_job(JobSpec.load("quickstart")) == ()


def test_another_set_of_weights_is_no_other_backbone() -> None:
    Path("jobs/base.yaml").write_text(
        "model: {backbone: vit_b, image_size: 64}\ndata: {path: x}\nrecipe: {lr: 1e-3}\n"
    )
    text = "extends: base.yaml\nmodel:\n  backbone: vit_base_patch16_224.augreg_in1k\n"
    assert check_job(load(text)) == ()


def test_a_stored_job_is_its_own() -> None:
    stored = load(README, "model.image_size=32").to_yaml()
    assert check_job(load(stored)) == ()


def test_a_changed_backbone_is_looked_at_again() -> None:
    job = JobSpec.load("quickstart").replace("model.backbone", "vit_base_patch16_224")
    assert "which is for vit_nano_patch4_32" in refusal(job)
    check_job(job.replace("model.image_size", 32))
    assert "which is for" in refusal(load(SMALL).overridden(["model.backbone=vit_s"]))


def test_a_size_far_above_the_own_is_refused() -> None:
    line = refusal(JobSpec.load("quickstart", ["model.image_size=4096"]))
    assert line == (
        "--set model.image_size=4096: model.image_size is 4096, but must be at most 256: "
        "8 times the 32 pixels of vit_nano_patch4_32"
    )
    check_job(JobSpec.load("quickstart", ["model.image_size=256"]))


@pytest.mark.parametrize("name", [file.stem for file in Path(__file__).parents[3].glob("jobs/*")])
def test_no_bundled_job_has_a_foreign_size(name: str) -> None:
    assert not [notice for notice in check_job(JobSpec.load(name)) if " px: " in notice]


def test_a_teacher_that_sees_far_less_than_its_own_size_is_a_notice() -> None:
    teacher = "recipe.distill.teacher=vit_base_patch16_224"
    assert check_job(JobSpec.load("quickstart", [teacher])) == (
        "the teacher vit_base_patch16_224 sees 32 px: its own is 224",
    )
    assert check_job(JobSpec.load("ltm_mobilevit_s", [teacher])) == ()
