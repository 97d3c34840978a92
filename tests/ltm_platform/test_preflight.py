"""What is found out before a worker is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ltm_platform.data.place import place
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.preflight import Ready, Resources, check, check_names

JOB = """\
model:
  backbone: vit_nano_patch4_32
  method: ltm
  compression_ratio: 0.7
  options:
    rank: 8
data:
  path: digits
recipe:
  global_batch: 64
cluster:
  workers: auto
"""
TWO_CPUS = Resources(cpus=2, gpus=0)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()


def load(*overrides: str, text: str = JOB) -> JobSpec:
    Path("jobs/x.yaml").write_text(text)
    return JobSpec.load("jobs/x.yaml", overrides)


def ready(*overrides: str, resources: Resources = TWO_CPUS, text: str = JOB) -> Ready:
    return check(load(*overrides, text=text), resources)


def refusal(*overrides: str, resources: Resources = TWO_CPUS, text: str = JOB) -> str:
    """The one sentence of a job that is refused."""
    with pytest.raises(UserError) as error:
        check(load(*overrides, text=text), resources)
    (line,) = str(error.value).splitlines()
    return line


def pictures(folder: str, *, a_class: int) -> str:
    """A tree of two classes; a fifth of it, one image a class at least, is for validation."""
    for name in ("cat", "dog"):
        Path(folder, name).mkdir(parents=True)
        for number in range(a_class):
            Image.new("RGB", (12, 10), (20 * number, 100, 50)).save(f"{folder}/{name}/{number}.png")
    return folder


# --- workers


@pytest.mark.parametrize(
    ("cpus", "gpus", "each", "workers", "use_gpu"),
    [
        (2, 0, 1, 2, False),
        (1, 0, 1, 1, False),
        (64, 0, 1, 2, False),
        (3, 0, 2, 1, False),
        (64, 8, 1, 8, True),
        (64, 1, 1, 1, True),
    ],
)
def test_auto_is_one_worker_a_gpu_or_at_most_two_on_cpus(
    cpus: int, gpus: int, each: int, workers: int, use_gpu: bool
) -> None:
    got = ready(f"cluster.cpus_per_worker={each}", resources=Resources(cpus=cpus, gpus=gpus))
    assert (got.job.cluster.workers, got.batch.workers, got.use_gpu) == (workers, workers, use_gpu)
    assert got.batch.global_batch == 64


def test_more_workers_than_cpus_are_refused() -> None:
    text = JOB.replace("auto", "4")
    line = refusal(text=text)
    assert line.startswith("jobs/x.yaml:12: cluster.workers is 4 at 1 CPUs each, ")
    assert "only 2 CPUs" in line
    assert "take 2 workers or fewer" in line


def test_cpus_are_counted_for_every_worker() -> None:
    assert "only 2 CPUs" in refusal("cluster.workers=2", "cluster.cpus_per_worker=1.5")


@pytest.mark.parametrize("workers", ["1", "auto"])
def test_a_worker_larger_than_the_machine_gets_advice_that_helps(workers: str) -> None:
    line = refusal(f"cluster.workers={workers}", "cluster.cpus_per_worker=3")
    assert "cluster.cpus_per_worker" in line
    assert "0 workers" not in line


def test_more_workers_than_gpus_are_refused() -> None:
    line = refusal("cluster.workers=4", resources=Resources(cpus=64, gpus=2))
    assert line.startswith("--set cluster.workers=4: cluster.workers is 4, ")
    assert "only 2 GPUs" in line


def test_a_batch_that_the_automatic_workers_cannot_share_is_refused() -> None:
    line = refusal("recipe.global_batch=50", resources=Resources(cpus=64, gpus=8))
    assert line.startswith("--set recipe.global_batch=50: recipe.global_batch is 50, ")
    assert "48 or 56" in line


# --- names


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
    assert "'rnk'" in line
    assert "did you mean 'rank'" in line


@pytest.mark.parametrize("value", ["0", "text", "-1", "2.5"])
def test_an_impossible_value_of_an_option_is_refused(value: str) -> None:
    line = refusal(text=JOB.replace("rank: 8", f"rank: {value}"))
    assert line.startswith("jobs/x.yaml:")
    assert "rank" in line


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


def test_without_a_compiler_nothing_is_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "absent"))
    assert "no C++ compiler" in refusal("engine.compile=true")
    assert ready("engine.compile=false").job.engine.compile is False


def test_a_pruned_network_is_counted_as_it_will_be() -> None:
    text = JOB.replace("method: ltm", "method: s2vite").replace("rank: 8", "share: 0.2")
    got = ready("engine.zero_stage=2", text=text)
    assert 0.68 < got.cost.gmacs / got.base_cost.gmacs <= 0.7
    assert got.cost.params_m < got.base_cost.params_m
    assert not got.notices


def test_scores_of_random_weights_are_worth_a_word() -> None:
    text = JOB.replace("method: ltm", "method: savit").replace("rank: 8", "images: 64")
    (notice,) = ready(text=text).notices
    assert "give model.pretrained or model.checkpoint" in notice


def test_a_typo_in_the_optimizer_is_told_with_place_and_nearest() -> None:
    line = refusal("recipe.optimizer=adamww")
    assert line.startswith("--set recipe.optimizer=adamww: recipe.optimizer is 'adamww', ")
    assert "did you mean 'adamw'" in line


@pytest.mark.parametrize("optimizer", ["lamb", "lars", "muon", "adafactor", "adamp"])
def test_an_optimizer_of_whole_tensors_is_refused_where_zero_cuts_them(optimizer: str) -> None:
    assert "engine.zero_stage=0" in refusal(f"recipe.optimizer={optimizer}")
    ready(f"recipe.optimizer={optimizer}", "engine.zero_stage=0")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lion", "nadamw"])
def test_an_optimizer_of_single_weights_is_taken(optimizer: str) -> None:
    ready(f"recipe.optimizer={optimizer}")


def test_an_unreadable_augmentation_is_refused() -> None:
    line = refusal("recipe.augment.auto_augment=rnd-m9")
    assert "recipe.augment.auto_augment is 'rnd-m9'" in line


def test_weights_that_nobody_published_are_refused() -> None:
    line = refusal("model.pretrained=true")
    assert line.startswith("--set model.pretrained=true: model.pretrained is ")


# --- image size and cost


def test_the_image_size_is_filled_in() -> None:
    assert load().model.image_size is None
    assert ready().job.model.image_size == 32


def test_another_image_size_is_kept() -> None:
    small, large = ready("model.image_size=16"), ready("model.image_size=64")
    assert (small.job.model.image_size, large.job.model.image_size) == (16, 64)
    assert 3 < large.cost.gmacs / ready().cost.gmacs < 8
    assert small.cost.gmacs < ready().cost.gmacs


def test_an_image_size_that_the_backbone_cannot_take_is_refused() -> None:
    line = refusal("model.image_size=30")
    assert line.startswith("--set model.image_size=30: model.image_size is ")
    assert "multiples" in line


def test_merging_costs_less_than_the_base_and_a_little_more_weights() -> None:
    got = ready()
    assert 0 < got.cost.gmacs < got.base_cost.gmacs
    assert got.cost.params_m > got.base_cost.params_m > 0


def test_without_merging_the_cost_is_the_bases() -> None:
    got = ready("model.method=none", "model.options=null")
    assert got.cost == got.base_cost


# --- data


def test_missing_data_is_told_with_its_place() -> None:
    line = refusal(text=JOB.replace("digits", "photos"))
    assert line.startswith("jobs/x.yaml:8: data.path: photos not found ")
    assert "data.path=FOLDER" in line


def test_missing_imagenet_is_told_with_where_to_get_it() -> None:
    assert "https://image-net.org" in refusal("data.path=data/imagenet")


def test_a_small_image_folder_reduces_the_global_batch_and_it_is_said() -> None:
    pictures("photos", a_class=4)  # 3 + 3 to train on
    got = ready("data.path=photos", "recipe.micro_batch=16", "cluster.workers=2")
    assert got.batch.global_batch == got.job.recipe.global_batch == 6
    assert (got.batch.micro_batch, got.batch.workers) == (3, 2)
    (notice,) = got.notices
    assert "recipe.global_batch is 6 instead of 64" in notice
    assert "6 images" in notice


def test_a_reduced_batch_is_shared_by_the_workers() -> None:
    pictures("photos", a_class=4)
    got = ready("data.path=photos", "cluster.workers=4", resources=Resources(cpus=4, gpus=0))
    assert (got.batch.global_batch, got.batch.micro_batch) == (4, 1)


def test_a_batch_that_fits_is_left_alone() -> None:
    got = ready()
    assert (got.job.recipe.global_batch, got.notices) == (64, ())


def test_fewer_images_than_workers_are_refused() -> None:
    pictures("photos", a_class=2)
    four = Resources(cpus=4, gpus=0)
    line = refusal(
        "data.path=photos", "cluster.workers=3", "recipe.global_batch=63", resources=four
    )
    assert line.startswith("--set cluster.workers=3: cluster.workers is 3, ")
    assert "only 2 images" in line


def test_relative_paths_become_absolute(tmp_path: Path) -> None:
    pictures("photos", a_class=2)
    got = ready("data.path=photos", "cluster.storage=../storage")
    assert got.job.data.path == str(tmp_path / "photos")
    assert got.job.cluster.storage == str(tmp_path.parent / "storage")


def test_the_users_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    pictures("photos", a_class=2)
    got = ready("data.path=~/photos", "cluster.storage=~/storage")
    assert got.job.data.path == str(tmp_path / "photos")
    assert got.job.cluster.storage == str(tmp_path / "storage")


@pytest.mark.parametrize("path", ["digits", "photos"])
def test_copies_are_made_of_shards_alone(path: str) -> None:
    pictures("photos", a_class=3)
    line = refusal(f"data.path={path}", "data.cache=disk")
    assert line.startswith("--set data.cache=disk: data.cache holds copies of shards, but ")
    assert f"{path!r} has none" in line
    assert not Path("disk").exists()


def test_a_ready_job_can_be_checked_again() -> None:
    pictures("photos", a_class=4)
    once = ready("data.path=photos")
    again = check(once.job, TWO_CPUS)
    assert (again.job, again.batch, again.notices) == (once.job, once.batch, ())


# --- where things are kept


def test_a_bucket_is_written_to_and_left_as_it_was(bucket: str) -> None:
    storage = f"{bucket}/runs"
    assert ready(f"cluster.storage={storage}").job.cluster.storage == storage
    assert place(bucket).files(recursive=True) == []


def test_a_bucket_that_is_not_there_is_refused(bucket: str) -> None:
    line = refusal(f"cluster.storage={bucket}-else/runs")
    assert f"cluster.storage is '{bucket}-else/runs', which cannot be written to: " in line


def test_a_storage_that_nobody_can_open_is_refused() -> None:
    line = refusal("cluster.storage=ftp://server/runs")
    assert "cluster.storage: ftp://server/runs cannot be read as an address" in line


def test_a_folder_as_tracking_store_is_refused_with_its_place() -> None:
    line = refusal("tracking.uri=mlruns")
    assert line.startswith("--set tracking.uri=mlruns: tracking.uri is 'mlruns', ")


def test_a_password_has_no_place_in_a_job() -> None:
    line = refusal("tracking.uri=postgresql://me:secret@db/mlflow")
    assert "MLFLOW_TRACKING_URI" in line
    assert "secret" not in line


@pytest.mark.parametrize("key", ["data.path", "cluster.storage"])
def test_a_key_has_no_place_in_an_address(key: str) -> None:
    line = refusal(f"{key}=s3://AKIA:sesame@bucket/runs")
    assert line.startswith(f"{key} is s3://AKIA:***@bucket/runs: a key in it would be kept")
    assert "sesame" not in line


# --- the recipe


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
        (["recipe.micro_batch=3", "recipe.global_batch=48"], 3),
        (["recipe.global_batch=42"], 21),
        (["recipe.global_batch=42", "recipe.micro_batch=auto"], 21),
    ],
)
def test_mixing_needs_pairs(overrides: list[str], taken: int) -> None:
    line = refusal("recipe.mix.mixup=0.8", *overrides)
    assert f"recipe.mix mixes pairs of images, but each worker takes {taken} at a time" in line


def test_fp16_is_for_gpus() -> None:
    got = ready("engine.precision=fp16", resources=Resources(cpus=8, gpus=2))
    assert got.job.engine.precision == "fp16"


def test_start_weights_are_loaded_and_a_new_classifier_is_said() -> None:
    import torch

    from ltm_platform.models import create_model

    torch.save(create_model(load(), 7).state_dict(), "w.pt")
    got = ready("model.checkpoint=w.pt")
    assert got.job.model.checkpoint == str(Path("w.pt").resolve())
    assert got.notices == ("the classifier starts anew: the data has 10 classes",)


def test_the_paths_of_a_teacher_are_made_absolute() -> None:
    import torch

    from ltm_platform.models import create_model

    torch.save(create_model(load(), 10, method="none").state_dict(), "w.pt")
    named = ["recipe.distill.teacher=vit_nano_patch4_32", "recipe.distill.checkpoint=w.pt"]
    distill = ready(*named).job.recipe.distill
    assert (distill.teacher, distill.checkpoint) == (
        "vit_nano_patch4_32",
        str(Path("w.pt").resolve()),
    )


def test_the_micro_batch_may_be_left_to_the_workers() -> None:
    got = ready("recipe.micro_batch=auto", "cluster.workers=2")
    assert got.job.recipe.micro_batch == "auto"
    assert (got.batch.global_batch, got.batch.micro_batch) == (64, 32)


def test_offload_is_for_gpus_but_does_no_harm() -> None:
    (notice,) = ready("engine.offload=optimizer").notices
    assert notice.startswith("engine.offload saves nothing here")
    assert ready("engine.offload=optimizer", resources=Resources(cpus=4, gpus=2)).notices == ()


# --- several nodes


def test_a_worker_has_to_fit_one_node() -> None:
    small = Resources(cpus=4, gpus=0, nodes=((1, 0),) * 4)
    line = refusal("cluster.cpus_per_worker=2", "cluster.workers=2", resources=small)
    assert "only 1 CPUs on the largest node" in line
    uneven = Resources(cpus=6, gpus=0, nodes=((3, 0), (3, 0)))
    assert uneven.room(2) == 2
    three = ("cluster.workers=3", "recipe.global_batch=63")
    line = refusal("cluster.cpus_per_worker=2", *three, resources=uneven)
    assert "only 6 CPUs, on 2 nodes: take 2 workers" in line


def test_a_node_without_gpus_has_no_room_where_there_are_any() -> None:
    headed = Resources(cpus=100, gpus=8, nodes=((4, 0), (48, 4), (48, 4)))
    assert (headed.room(1), headed.room(24)) == (8, 4)
    assert ready(resources=headed).batch.workers == 8


# --- what may be overridden


def test_a_storage_that_cannot_be_written_to_is_refused() -> None:
    Path("file").write_text("")
    line = refusal("cluster.storage=file/runs")
    assert line.startswith("--set cluster.storage=file/runs: cluster.storage is '")
    assert "cannot be written to" in line


def test_a_damaged_image_is_found_before_the_start() -> None:
    pictures("photos", a_class=8)
    for damaged in Path("photos").rglob("*.png"):
        damaged.write_bytes(b"no image")
    line = refusal("data.path=photos", "recipe.global_batch=4")
    assert line.startswith("--set data.path=photos: data.path: ")
    assert "is damaged" in line


def test_what_is_forced_is_told_instead() -> None:
    job = load("cluster.workers=4", "tracking.uri=http://127.0.0.1:1")
    got = check(job, TWO_CPUS, force=True)
    server, workers = got.problems
    assert "no MLflow server answers" in server
    assert "only 2 CPUs" in workers
    assert got.batch.workers == 4
    assert ready("cluster.workers=2").problems == ()


def test_a_mistake_in_the_job_cannot_be_forced() -> None:
    with pytest.raises(UserError, match="did you mean 'ltm'"):
        check(load("model.method=ltn"), TWO_CPUS, force=True)
