"""What `submit` refuses before Ray starts, `validate` refuses too, in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltm_platform import api
from ltm_platform.checks import check
from ltm_platform.errors import UserError

from .conftest import TWO_CPUS, load, pictures


@pytest.fixture(autouse=True)
def _a_user_with_nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LTM_PLATFORM_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.path=nowhere"],
        ["data.path=/proc/self/environ"],
        ["data.path=s3://u:p@bucket/x"],
        ["data.cache=disk"],
        ["model.options={rnk: 8}"],
        ["model.options={rank: 0}"],
        ["model.plan={blocks.99: 3}", "model.compression_ratio=null"],
        ["model.target_gmacs=1e-6", "model.compression_ratio=null"],
        ["model.image_size=30"],
        ["model.image_size=4096"],
        ["model.backbone=vit_nano_patch4_32.foo"],
        ["model.checkpoint=nowhere.pt"],
        ["recipe.freeze=[patch_embd]"],
        ["recipe.optimizer=fusedadam"],
        ["recipe.augment.auto_augment=rnd"],
        ["recipe.mix.mixup=0.8", "recipe.global_batch=42", "cluster.workers=2"],
        ["engine.precision=fp16"],
        ["cluster.workers=4000", "recipe.global_batch=8000"],
        ["cluster.cpus_per_worker=1000"],
        ["cluster.storage=jobs/x.yaml/runs"],
        ["tracking.uri=mlruns"],
        ["tracking.uri=postgresql://me:secret@db/mlflow"],
    ],
    ids=lambda value: value[0],
)
def test_validate_refuses_what_submit_refuses(overrides: list[str]) -> None:
    job = load(*overrides)
    with pytest.raises(UserError) as by_submit:
        check(job, TWO_CPUS)
    with pytest.raises(UserError) as by_validate:
        api.validate(job, address="local")
    submitted, validated = str(by_submit.value), str(by_validate.value)
    assert len(validated.splitlines()) == 1
    assert validated.partition(", but ")[0] == submitted.partition(", but ")[0]
    assert not Path("../home").exists()


def test_a_field_beside_another_is_told_what_clears_the_other() -> None:
    both = "model.target_gmacs=0.01", "model.compression_ratio=0.5"
    with pytest.raises(UserError) as error:
        load(*both)
    assert str(error.value) == (
        "--set model.compression_ratio=0.5: model.compression_ratio is 0.5, but model.target_gmacs "
        "is 0.01 (--set model.target_gmacs=0.01), and a job has only one of them: "
        "--set model.target_gmacs=null clears the other"
    )
    assert error.value.fields == {"model.compression_ratio": 0.5, "model.target_gmacs": 0.01}
    load(*both, "model.target_gmacs=null")
    load(*both, "model.method=none")


def test_validate_says_what_it_left_out() -> None:
    said: list[str] = []
    api.validate(load(), address="local", note=said.append)
    assert said == ["not checked: the images of data.path"]
    said.clear()
    job = load("tracking.uri=http://127.0.0.1:9", "model.pretrained=true")
    api.validate(job, address="local", note=said.append)
    (sentence,) = said
    assert "the tracking server" in sentence
    assert "the weights of the network" in sentence


def test_what_is_on_a_cluster_is_not_looked_for_here() -> None:
    said: list[str] = []
    job = load("data.path=/only/there")
    assert api.validate(job, address="http://head:8265", note=said.append) == job
    assert said == ["not checked: what is on http://head:8265: data, storage and workers"]
    with pytest.raises(UserError, match="rnk is no option"):
        api.validate(load("model.options={rnk: 1}"), address="http://head:8265")


def test_a_folder_of_images_is_looked_at_without_its_images() -> None:
    pictures("photos", a_class=1)
    for damaged in Path("photos").rglob("*.png"):
        damaged.write_bytes(b"no image")
    assert api.validate(load("data.path=photos"), address="local").data.path == "photos"


@pytest.mark.parametrize(
    "optimizer", ["fusedadam", "fusedlamb", "bnbadamw8bit", "bnblion", "fusednovograd"]
)
def test_an_optimizer_of_a_package_that_is_not_there_is_refused(optimizer: str) -> None:
    with pytest.raises(UserError) as error:
        check(load(f"recipe.optimizer={optimizer}", "engine.zero_stage=0"), TWO_CPUS)
    package = "apex" if optimizer.startswith("fused") else "bitsandbytes"
    line = str(error.value)
    assert f"is '{optimizer}', which needs the package {package}, and is not taken here" in line
    assert "adamw, " in line
    assert "fused" not in line.partition("must be one of")[2].partition(";")[0]


@pytest.mark.parametrize("policy", ["rand-m9-n999999999", "augmix-m5-w99999", "rnd-m9", "x"])
def test_a_policy_that_timm_trips_over_is_refused(policy: str) -> None:
    with pytest.raises(UserError, match="auto_augment is "):
        check(load(f"recipe.augment.auto_augment={policy}"), TWO_CPUS)
