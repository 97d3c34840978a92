"""What a broken job file says: whole sentences, with the place to mend."""

from __future__ import annotations

from typing import Any

import pytest

from ltm_platform.job import JobSpec

from .conftest import GOOD, sentence

RECIPE_FIELDS = (
    "augment, backbone, clip_grad, consistency, distill, early_stop, ema_decay, epochs, freeze,"
    " global_batch, ib, label_smoothing, layer_decay, lr, micro_batch, min_lr, mix, momentum, "
    "optimizer, seed, sync_bn, warmup_epochs, weight_decay"
)
JOB_FIELDS = "checkpoint, cluster, data, engine, extends, model, name, recipe, tracking"

pytestmark = pytest.mark.usefixtures("_in_a_folder_of_its_own")


def ratio(value: str) -> str:
    return GOOD.replace("data:", f"  compression_ratio: {value}\ndata:")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            GOOD + "recipe:\n  seed: 1\n  epoch: 10\n",
            "jobs/x.yaml:7: recipe.epoch is not a field of recipe; did you mean 'epochs'? "
            f"(allowed: {RECIPE_FIELDS})",
            id="typo in a key",
        ),
        pytest.param(
            GOOD + "recipe:\n  epochs: ten\n",
            "jobs/x.yaml:6: recipe.epochs is 'ten' (text), "
            "but must be a whole number from 1 to 100000",
            id="string for a number",
        ),
        pytest.param(
            ratio("0"),
            "jobs/x.yaml:3: model.compression_ratio is 0, but must be greater than 0 and at most 1",
            id="ratio 0",
        ),
        pytest.param(
            ratio("1.5"),
            "jobs/x.yaml:3: model.compression_ratio is 1.5, "
            "but must be greater than 0 and at most 1",
            id="ratio 1.5",
        ),
        pytest.param(
            ratio("-1"),
            "jobs/x.yaml:3: model.compression_ratio is -1, "
            "but must be greater than 0 and at most 1",
            id="ratio -1",
        ),
        pytest.param(
            "model:\n  backbone: [vit\ndata:\n  path: digits\n",
            "jobs/x.yaml:3: this is not valid YAML: expected ',' or ']', but got ':' (column 5)",
            id="bad YAML",
        ),
        pytest.param(
            GOOD + "recipe:\n  global_batch: 50\ncluster:\n  workers: 4\n",
            "jobs/x.yaml:6: recipe.global_batch is 50, which does not divide by 4 workers; "
            "use a global batch of 48 or 52, or 2 or 5 workers",
            id="batch that cannot be divided",
        ),
        pytest.param(
            GOOD + "engine:\n  compile: true\n  zero_stage: 3\n",
            "jobs/x.yaml:6: engine.compile is true, but at engine.zero_stage 3 weights come and go "
            "within the network, which cannot be compiled: use a stage from 0 to 2",
            id="compiled shards",
        ),
        pytest.param(
            GOOD + "tracking:\n  register_as: digits\n  log_model: false\n",
            "jobs/x.yaml:6: tracking.register_as is given, but tracking.log_model is false: "
            "there would be no model to register",
            id="registered without a model",
        ),
        pytest.param(
            GOOD + "tracking:\n  aliases: [best]\n",
            "jobs/x.yaml:6: tracking.aliases is given, but not tracking.register_as, "
            "the model that they are of",
            id="aliases of nothing",
        ),
        pytest.param(
            GOOD + "tracking:\n  register_as: digits\n  aliases: [latest]\n",
            "jobs/x.yaml:7: tracking.aliases is ['latest'], but must be letters, digits, '-' and "
            "'_', but neither latest nor v with a number, which MLflow keeps for itself",
            id="an alias of MLflow's own",
        ),
        pytest.param(
            GOOD + "engine:\n  precision: fp16\n  zero_stage: 0\n",
            "jobs/x.yaml:6: engine.precision is 'fp16' at engine.zero_stage 0, "
            "but needs a stage from 1 to 3",
            id="fp16 without ZeRO",
        ),
        pytest.param(
            GOOD + "engine:\n  deepspeed: {zero_optimization: {stage: 2}}\n",
            "jobs/x.yaml:6: engine.deepspeed has zero_optimization.stage, but engine.zero_stage "
            "decides that: give engine.zero_stage in its place",
            id="a setting that is a field",
        ),
        pytest.param(
            GOOD + "engine:\n  zero_stage: 0\n  deepspeed: {prescale_gradients: true}\n",
            "jobs/x.yaml:7: engine.deepspeed is given, but at engine.zero_stage 0 DeepSpeed takes "
            "no part: use a stage from 1 to 3",
            id="settings of DeepSpeed without it",
        ),
        pytest.param(
            GOOD + "cluster:\n  workers: 2\n  gpus_per_worker: 0.5\n",
            "jobs/x.yaml:7: cluster.gpus_per_worker is 0.5, but workers of one run cannot share a "
            "GPU (NCCL refuses): use 1, or cluster.workers 1",
            id="workers that share a GPU",
        ),
        pytest.param(
            GOOD + "engine:\n  offload: optimizer\n  zero_stage: 0\n",
            "jobs/x.yaml:6: engine.offload is 'optimizer' at engine.zero_stage 0, where every "
            "worker keeps its whole optimizer: use a stage from 1 to 3",
            id="offload without ZeRO",
        ),
        pytest.param(
            GOOD + "engine:\n  zero_stage: 2\n  offload: all\n",
            "jobs/x.yaml:7: engine.offload is 'all', but at engine.zero_stage 2 the weights stay "
            "on the GPU: use stage 3, or 'optimizer'",
            id="offloaded weights that are not shared out",
        ),
        pytest.param(
            GOOD.replace("data:", "  pretrained: true\n  checkpoint: x.pt\ndata:"),
            "jobs/x.yaml:4: model.checkpoint is 'x.pt', but model.pretrained is true "
            "(jobs/x.yaml:3), and a job has only one of them: "
            "--set model.pretrained=false clears the other",
            id="two starts",
        ),
        pytest.param(
            GOOD + "recipe:\n  distill:\n    checkpoint: x.pt\n",
            "jobs/x.yaml:7: recipe.distill.checkpoint is given, but not recipe.distill.teacher, "
            "the network that it is for",
            id="weights without a teacher",
        ),
        pytest.param(
            GOOD + "recipe:\n  freeze: blocks.0\n",
            "jobs/x.yaml:6: recipe.freeze is 'blocks.0' (text), "
            "but must be a list of items, each text",
            id="text for a list",
        ),
        pytest.param(
            GOOD + "recipe:\n  micro_batch: aut\n",
            "jobs/x.yaml:6: recipe.micro_batch is 'aut', but must be a whole number from 1 to "
            "1048576 or 'auto', or null; did you mean 'auto'?",
            id="typo in auto",
        ),
        pytest.param(
            "extends: x.yaml\n",
            "jobs/x.yaml:1: extends runs in a circle: jobs/x.yaml -> jobs/x.yaml",
            id="cyclic extends",
        ),
    ],
)
def test_a_broken_job_gives_one_helpful_sentence(text: str, expected: str) -> None:
    assert sentence(text) == expected


def test_every_error_has_a_line_of_its_own() -> None:
    text = GOOD + "recipe:\n  epochs: ten\n  sede: 1\nengine:\n  zero_stage: 4\n"
    assert sentence(text, "cluster.workers=0", "recipe.lr").splitlines() == [
        "--set recipe.lr: there is no '='; write it as section.key=value, e.g. recipe.epochs=10",
        "jobs/x.yaml:6: recipe.epochs is 'ten' (text), but must be a whole number from 1 to 100000",
        "jobs/x.yaml:7: recipe.sede is not a field of recipe; did you mean 'seed'? "
        f"(allowed: {RECIPE_FIELDS})",
        "jobs/x.yaml:9: engine.zero_stage is 4, but must be from 0 to 3",
        "--set cluster.workers=0: cluster.workers is 0, "
        "but must be a whole number from 1 to 4096 or a list of 2 items, "
        "each a whole number from 1 to 4096 or 'auto'",
    ]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("recipe.epochs='10'", "'10' (text), but must be a whole number from 1 to 100000"),
        ("recipe.epochs=1.5", "1.5, but must be a whole number from 1 to 100000"),
        ("recipe.epochs=true", "true, but must be a whole number from 1 to 100000"),
        ("recipe.epochs=", "empty (null), but must be a whole number from 1 to 100000"),
        ("recipe.epochs.x=1", "a mapping, but must be a whole number from 1 to 100000"),
        ("recipe.lr=true", "true, but must be a number from 1e-12 to 10"),
        ("recipe.lr=.inf", "inf, but must be a finite number from 1e-12 to 10"),
        ("recipe.lr=12:30", "'12:30' (text), but must be a number from 1e-12 to 10"),
        ("recipe.seed=-1", "-1, but must be from 0 to 4294967295"),
        (
            "recipe.clip_grad=.nan",
            "nan, but must be a finite number from 1e-06 to 1000000, or null",
        ),
        ("model.pretrained=yes", "'yes' (text), but must be true or false"),
        ("model.method=5", "5, but must be text; put it in quotes"),
        ("data.path=''", "'', but must be text that is not empty"),
        ('data.path="a\\0b"', "'a\\x00b', but must not hold control characters"),
        (
            "engine.precision=fp3",
            "'fp3', but must be 'auto' or 'fp32' or 'bf16' or 'fp16'; did you mean 'fp32'?",
        ),
        (
            "cluster.workers=atuo",
            "'atuo', but must be a whole number from 1 to 4096 or a list of 2 items, "
            "each a whole number from 1 to 4096 or 'auto'; did you mean 'auto'?",
        ),
        (
            "recipe.augment.crop_scale=[0.1]",
            "[0.1], but must be a list of 2 items, each a number greater than 0 and at most 1",
        ),
        (
            "recipe.augment.crop_scale=[0, 1]",
            "[0, 1], but must be a list of 2 items, each a number greater than 0 and at most 1",
        ),
        ("recipe.augment.crop_scale=[1, 0.5]", "[1, 0.5], but must have the smaller number first"),
        ("model.options={a: [.nan]}", "a mapping, but must hold finite numbers only"),
        (
            "engine=2",
            "2, but must be a section of its own (allowed: channels_last, "
            "compile, deepspeed, grad_checkpointing, offload, precision, zero_stage)",
        ),
        (
            "name=../up",
            "'../up', but must be 1 to 63 lower-case letters, digits, '-', '_' and single dots, "
            "the first a letter or a digit",
        ),
    ],
)
def test_an_impossible_value_is_shown_with_what_is_allowed(value: str, problem: str) -> None:
    key = value.partition("=")[0].removesuffix(".x")
    assert sentence(GOOD, value) == f"--set {value}: {key} is {problem}"


@pytest.mark.parametrize("name", ["a..b", ".hidden", "A", "a b", "a/b", "x" * 64])
def test_a_name_is_safe_as_a_folder_name(name: str) -> None:
    assert "but must be 1 to 63 lower-case letters" in sentence(GOOD, f"name={name}")


def test_an_unknown_section_is_named_with_the_right_place() -> None:
    text = GOOD + "recipes: {}\nepochs: 3\nextend: base.yaml\n"
    assert sentence(text).splitlines() == [
        f"jobs/x.yaml:5: recipes is not a field of the job; did you mean 'recipe'? "
        f"(allowed: {JOB_FIELDS})",
        f"jobs/x.yaml:6: epochs is not a field of the job; did you mean 'recipe.epochs'? "
        f"(allowed: {JOB_FIELDS})",
        f"jobs/x.yaml:7: extend is not a field of the job; did you mean 'extends'? "
        f"(allowed: {JOB_FIELDS})",
    ]


def test_a_missing_field_points_at_its_section() -> None:
    assert sentence("name: x\nmodel:\n  method: none\n").splitlines() == [
        "jobs/x.yaml:2: model.backbone is missing, but every job needs it: "
        "name of the backbone, e.g. vit_base_patch16_224",
        "jobs/x.yaml: data.path is missing, but every job needs it: the word `digits` (the UCI "
        "digits that scikit-learn ships) or a folder: an image tree with one subfolder a class, "
        "optionally under train/ and val/, or our Parquet shards, which may also lie in an object "
        "store: s3://bucket/folder, gs://bucket/folder",
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["recipe.min_lr=0.5"],
            "--set recipe.min_lr=0.5: recipe.min_lr is 0.5, but must be at most recipe.lr, 0.0002",
        ),
        (
            ["recipe.warmup_epochs=5", "recipe.epochs=2"],
            "--set recipe.warmup_epochs=5: recipe.warmup_epochs is 5, "
            "but must be at most recipe.epochs, 2",
        ),
        (
            ["recipe.micro_batch=64", "cluster.workers=3"],
            "--set cluster.workers=3: recipe.global_batch is 256, which does not divide by "
            "3 workers; use a global batch of 255 or 258, or 2 or 4 workers",
        ),
    ],
)
def test_fields_that_do_not_go_together(overrides: list[str], expected: str) -> None:
    assert sentence(GOOD, *overrides) == expected


def test_a_conflict_blames_the_override_before_the_file() -> None:
    text = GOOD + "recipe:\n  min_lr: 1e-4\n"
    assert sentence(text, "recipe.lr=1e-5").startswith("--set recipe.lr=1e-5: ")


def fields(values: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in values.items():
        names.append(prefix + key)
        if isinstance(value, dict):
            names += fields(value, f"{prefix}{key}.")
    return names


@pytest.mark.parametrize("key", fields(JobSpec.load("quickstart").to_dict()))
def test_every_field_can_explain_itself(key: str) -> None:
    override = f"{key}=[[]]"
    assert sentence(GOOD, override).startswith(f"--set {override}: {key} is [[]], but must be ")
