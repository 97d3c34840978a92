"""How the global batch is divided by workers and images."""

from __future__ import annotations

import pytest

from ltm_platform.checks.batch import norm_notices, with_fitting_batch, with_workers
from ltm_platform.checks.run_plan import plan_in
from ltm_platform.job import JobSpec
from ltm_platform.job.load import bundled_folder
from ltm_platform.models import create_model
from ltm_platform.ray_cluster.resources import Resources
from ltm_platform.ray_cluster.session import Session
from ltm_platform.training.measurement import throughput

from .conftest import checked, load, pictures, refusal

JOBS = sorted(file.stem for file in bundled_folder().glob("*.yaml"))
WORKERS = (1, 2, 4, 8, 16)
BACKBONES = {JobSpec.load(name).model.backbone: name for name in JOBS}
"""One job of each, since a plan builds the network."""


def with_batch(job: JobSpec, gpus: int, images: int) -> JobSpec:
    """The job on so many GPUs, as `check` and `plan` have it."""
    job = with_workers(job, Resources(cpus=8 * gpus, gpus=gpus))
    return with_fitting_batch(job, images)[0]


@pytest.mark.parametrize("name", JOBS)
def test_every_job_starts_on_any_of_the_usual_numbers_of_workers(name: str) -> None:
    """Of the quickstart, which is for two, the number is set."""
    job = JobSpec.load(name)
    for workers in WORKERS:
        if job.cluster.workers != "auto":
            job = job.replace("cluster.workers", workers)
        batch = job.recipe.global_batch
        for images in (batch, batch + 1, 3 * batch - 1, 1_281_167):
            fitted = with_batch(job, workers, images)
            plan = fitted.batch(workers)
            assert fitted.recipe.global_batch == batch  # the contract
            assert plan.micro_batch * plan.accumulation * workers == batch
            assert plan.micro_batch <= (job.micro_limit or batch)
            if job.micro_limit:
                assert plan.micro_batch * plan.norm_group == job.micro_limit


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("images", [16, 17, 127, 131, 200, 255])
def test_fewer_images_than_a_batch_are_one_batch_of_large_parts(workers: int, images: int) -> None:
    job = with_batch(JobSpec.load("ltm_vit_s"), workers, images)
    plan = job.batch(workers)
    assert images - 3 * workers < job.recipe.global_batch <= images
    assert 32 < plan.micro_batch <= 64 or plan.accumulation == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES.values())
def test_a_job_of_every_backbone_is_planned_for_all_of_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan for 16 workers lists how fewer would share the batch, too."""
    monkeypatch.setattr(throughput, "SECONDS", 0.0)  # one step says how fast it is
    overrides = ["data.path=digits", "cluster.workers=16", "model.pretrained=false"]
    if JobSpec.load(name).recipe.distill.teacher:
        overrides += ["recipe.distill={teacher: null}"]
    job = JobSpec.load(name, overrides)
    plan = plan_in(job, Session(Resources(cpus=128, gpus=16), joined=False))
    assert not plan.checked.problems
    found = {batch.workers: batch.global_batch for batch in plan.batches}
    assert set(WORKERS) <= found.keys()
    assert set(found.values()) == {job.recipe.global_batch}


def test_a_range_of_workers_shares_a_batch_that_is_made_smaller() -> None:
    pictures("photos", a_class=7)  # 6 + 6 to train on
    settings = ["data.path=photos", "cluster.workers=[1,4]", "recipe.global_batch=24"]
    got = checked(*settings, resources=Resources(cpus=4, gpus=0))
    assert got.job.recipe.global_batch == 12
    line = refusal(*settings, "data.subset=0.5", resources=Resources(cpus=4, gpus=0))
    assert "cluster.workers is [1, 4], but the training set has only " in line


def test_a_share_without_divisors_is_told() -> None:
    (notice,) = checked("recipe.global_batch=254", "recipe.micro_batch=64").notices
    assert notice == (
        "each of 2 workers takes 1 images at a time: its share of 127 divides by no larger number "
        "up to recipe.micro_batch 64"
    )


def test_pairs_are_looked_for_on_every_number_of_workers() -> None:
    line = refusal("recipe.mix.mixup=0.8", "recipe.global_batch=12", "cluster.workers=[3,4]")
    assert "recipe.mix mixes pairs of images, but each worker takes 3 at a time" in line


@pytest.mark.parametrize(
    ("overrides", "images"),
    [
        ([], None),
        (["recipe.micro_batch=64", "recipe.global_batch=256", "cluster.workers=8"], None),
        (["recipe.global_batch=96", "cluster.workers=3"], None),  # no limit, no promise
        (["recipe.micro_batch=64", "recipe.global_batch=96", "cluster.workers=3"], 32),
        (["recipe.micro_batch=64", "recipe.global_batch=96", "cluster.workers=[1,3]"], 32),
    ],
)
def test_what_batch_norm_sees_on_more_workers_is_told(
    overrides: list[str], images: int | None
) -> None:
    model = {"backbone": "efficientvit_b0", "method": "none", "compression_ratio": None}
    settings = [f"model.{key}={'null' if v is None else v}" for key, v in model.items()]
    job = load(*settings, *overrides)
    notices = norm_notices(job, create_model(job, 10))
    if images is None:
        assert notices == ()
    else:
        assert notices == (
            f"batch normalisation takes its statistics over {images} images with 3 workers, "
            "but over 48 with one",
        )
    assert norm_notices(job.replace("recipe.sync_bn", True), create_model(job, 10)) == ()
