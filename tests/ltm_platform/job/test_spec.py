"""The job as a value: where it comes from, what it holds, how it is written and read back."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from pydantic import ValidationError

from ltm_platform.errors import UserError
from ltm_platform.job import Data, JobSpec, Model
from ltm_platform.job.fields import Section
from ltm_platform.job.load import bundled_folder

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = "model:\n  backbone: vit_micro_patch4_32\ndata:\n  path: digits\n"
BUNDLED = sorted(file.stem for file in bundled_folder().glob("*.yaml"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def test_defaults_fill_a_job_that_says_only_what_it_must() -> None:
    job = JobSpec.load(write("my first JOB.yaml", GOOD))
    assert job.name == "my-first-job"
    assert (job.model.method, job.model.compression_ratio, job.model.options) == ("ltm", None, {})
    assert (job.data.val_fraction, job.data.loader_workers) == (0.2, 1)
    assert (job.recipe.ib.weight, job.recipe.ib.warmup, job.recipe.ib.beta) == (0.1, 0.3, 5.0)
    assert job.recipe.augment.crop_scale == (0.08, 1.0)
    assert (job.engine.zero_stage, job.engine.precision) == (1, "auto")
    assert (job.cluster.workers, job.cluster.max_failures) == ("auto", 2)
    assert job.tracking.experiment == "ltm-platform"


def test_the_job_is_frozen() -> None:
    job = JobSpec.load("quickstart")
    with pytest.raises(ValidationError):
        job.recipe.epochs = 3  # type: ignore[misc]


def test_numbers_are_read_as_people_write_them() -> None:
    text = GOOD + "recipe:\n  lr: 1e-3\n  min_lr: 1E-5\n  weight_decay: 0\n  ema_decay: .99\n"
    recipe = JobSpec.load(write("x.yaml", text)).recipe
    assert (recipe.lr, recipe.min_lr, recipe.weight_decay, recipe.ema_decay) == (
        1e-3,
        1e-5,
        0.0,
        0.99,
    )


def test_overrides_are_yaml_and_the_last_one_wins() -> None:
    job = JobSpec.load(
        write("x.yaml", GOOD),
        [
            "recipe.epochs=3",
            "recipe.epochs=4",
            "recipe.lr=1e-3",
            "recipe.augment.crop_scale=[0.5, 1]",
            "recipe.ib={weight: 0.2}",
            "model.compression_ratio=null",
            "data.path=C:\\images=old",
        ],
    )
    assert job.recipe.epochs == 4
    assert job.recipe.lr == 1e-3
    assert job.recipe.augment.crop_scale == (0.5, 1.0)
    assert (job.recipe.ib.weight, job.recipe.ib.beta) == (0.2, 5.0)
    assert job.model.compression_ratio is None
    assert job.data.path == "C:\\images=old"


def test_extends_merges_sections_along_the_chain() -> None:
    write("base/a.yaml", GOOD + "name: a\nrecipe:\n  epochs: 5\n  seed: 1\n  ib: {beta: 2.0}\n")
    write("base/b.yaml", "extends: a.yaml\nrecipe:\n  seed: 2\n  ib: {weight: 0.5}\n")
    job = JobSpec.load(write("c.yaml", "extends: base/b.yaml\nrecipe:\n  lr: 0.01\n"))
    assert job.name == "c"
    assert (job.recipe.epochs, job.recipe.seed, job.recipe.lr) == (5, 2, 0.01)
    assert (job.recipe.ib.beta, job.recipe.ib.weight) == (2.0, 0.5)
    assert "extends" not in job.to_dict()
    assert job.where("recipe.epochs") == "base/a.yaml:7"
    assert job.where("recipe.ib.weight") == "base/b.yaml:4"
    assert job.where("recipe.lr") == "c.yaml:3"


def test_options_are_reset_by_null() -> None:
    write("a.yaml", GOOD.replace("data:", "  options: {prune: 0.1}\ndata:"))
    extended = "extends: a.yaml\nmodel:\n  options: {merge: 0.9}\n"
    assert JobSpec.load(write("b.yaml", extended)).model.options == {"prune": 0.1, "merge": 0.9}
    reset = "extends: a.yaml\nmodel:\n  options: null\n"
    assert JobSpec.load(write("b.yaml", reset)).model.options == {}


@pytest.mark.parametrize("name", ["quickstart", "quickstart.yaml", "jobs/quickstart.yaml"])
def test_a_bundled_job_is_found_from_any_folder(name: str) -> None:
    assert JobSpec.load(name).model.backbone == "vit_nano_patch4_32"


def test_a_job_of_ones_own_comes_before_a_bundled_one() -> None:
    write("jobs/quickstart.yaml", "extends: ../other.yaml\nname: mine\n")
    write("other.yaml", GOOD)
    assert JobSpec.load("quickstart").name == "mine"


def test_a_bundled_job_can_be_extended() -> None:
    job = JobSpec.load(write("mine.yaml", "extends: quickstart\nmodel:\n  method: none\n"))
    assert (job.name, job.model.method, job.data.path) == ("mine", "none", "digits")


def test_where_a_value_was_said() -> None:
    job = JobSpec.load(write("jobs/x.yaml", GOOD), ["recipe.epochs=3"])
    assert job.where("model.backbone") == "jobs/x.yaml:2"
    assert job.where("recipe.epochs") == "--set recipe.epochs=3"
    assert job.where("recipe.lr") == "default"
    with pytest.raises(KeyError):
        job.where("recipe.epoch")


def test_later_checks_speak_with_the_same_voice() -> None:
    text = GOOD.replace("data:", "  method: ltmm\ndata:")
    job = JobSpec.load(write("jobs/x.yaml", text), ["data.path=nowhere"])
    assert str(job.choice_error("model.method", ["ltm", "none", "tome"])) == (
        "jobs/x.yaml:3: model.method is 'ltmm', "
        "but must be one of: ltm, none, tome; did you mean 'ltm'?"
    )
    assert str(job.error("data.path", "there is no folder 'nowhere'")) == (
        "--set data.path=nowhere: there is no folder 'nowhere'"
    )
    assert str(job.error("engine.zero_stage", "no")) == "jobs/x.yaml: no"


def test_equality_is_about_the_value_alone() -> None:
    one = JobSpec.load(write("x.yaml", GOOD))
    other = JobSpec.load(write("y.yaml", "\n" + GOOD), ["name=x"])
    assert one == other
    assert one != other.replace("recipe.seed", 1)
    assert one == JobSpec(
        name="x", model=Model(backbone="vit_micro_patch4_32"), data=Data(path="digits")
    )


def test_a_replaced_field_is_checked() -> None:
    job = JobSpec.load(write("x.yaml", GOOD))
    changed = job.replace("cluster.workers", 2)
    assert (job.cluster.workers, changed.cluster.workers) == ("auto", 2)
    assert changed.where("model.backbone") == "x.yaml:2"
    with pytest.raises(UserError, match=r"recipe\.global_batch is 256"):
        job.replace("cluster.workers", 3)


AWKWARD: list[Any] = [
    "1e-3", "1e5", "010", "08", "0x1F", "0o17", "1_000", "12:30", "2024-01-01", "yes", "no", "on",
    "null", "~", "=", "<<", ".inf", "- a", "a: b", "#", " x ", "ümlaut", "'\"", "", "true",
    1e-07, 1e22, 123456789012345678901234567890, 0.1, -0.0, True, None,
]  # fmt: skip


@pytest.mark.parametrize("value", AWKWARD, ids=repr)
def test_what_is_stored_is_read_back_exactly(value: Any) -> None:
    options = {"value": value, "nested": {"list": [value, {"deep": value}], "empty": {}}}
    job = JobSpec.load("quickstart").replace("model.options", options)
    assert JobSpec.from_dict(job.to_dict()) == job
    again = JobSpec.load(write("stored.yaml", job.to_yaml()))
    assert again == job
    assert repr(again.to_dict()) == repr(job.to_dict())
    assert yaml.safe_load(job.to_yaml()) == job.to_dict()


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_jobs_are_read_back_exactly(name: str) -> None:
    job = JobSpec.load(name)
    assert job.name == name
    assert JobSpec.load(write("stored.yaml", job.to_yaml())) == job
    assert pickle.loads(pickle.dumps(job)) == job


def test_a_stored_job_names_its_source_in_errors() -> None:
    values = JobSpec.load("quickstart").to_dict()
    values["recipe"]["nesterov"] = True
    with pytest.raises(UserError, match=r"^checkpoint c1: recipe\.nesterov is not a field"):
        JobSpec.from_dict(values, source="checkpoint c1")


def test_flat_has_one_scalar_a_key() -> None:
    job = JobSpec.load(write("x.yaml", GOOD), ["model.options={a: {b: 1}}"])
    flat = job.flat()
    assert flat["model.options.a.b"] == 1
    assert flat["recipe.ib.weight"] == 0.1
    assert flat["recipe.augment.crop_scale"] == "[0.08, 1.0]"
    assert flat["recipe.clip_grad"] is None
    assert all(
        value is None or isinstance(value, (str, int, float, bool)) for value in flat.values()
    )


@pytest.mark.parametrize("section", Section.__subclasses__())
def test_every_field_says_what_it_means(section: type[Section]) -> None:
    silent = [name for name, field in section.model_fields.items() if not field.description]
    assert not silent


def test_importing_job_loads_nothing_heavy() -> None:
    heavy = {"torch", "ray", "deepspeed", "mlflow", "timm", "numpy", "click", "rich", "pyarrow"}
    code = "import sys, ltm_platform.job; print(*{name.partition('.')[0] for name in sys.modules})"
    # the test's own search path, so that it holds for a checkout and for an installed package
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not heavy & set(run.stdout.split())


def test_a_plan_names_modules_whose_names_have_dots() -> None:
    plan = "plan:\n    blocks.0: 40\n    layers.2: [6, 6]\n"
    job = JobSpec.load(write("x.yaml", GOOD.replace("data:", f"  {plan}data:")))
    assert job.model.plan == {"blocks.0": 40, "layers.2": (6, 6)}
    assert JobSpec.from_dict(job.to_dict()) == job
    assert JobSpec.load(write("y.yaml", job.to_yaml()), ["name=x"]) == job
    other = JobSpec.load(write("x.yaml", GOOD), ["model.plan={blocks.1: 9}"])
    assert other.model.plan == {"blocks.1": 9}


def test_a_job_is_overridden_as_when_it_is_loaded() -> None:
    words = ("recipe.epochs=3", "model={method: tome}")
    job = JobSpec.load("quickstart", words[:1]).overridden(words[1:])
    assert job == JobSpec.load("quickstart", words)
    assert job.where("recipe.epochs") == "--set recipe.epochs=3"
    assert job.where("model.method") == "--set model={method: tome}"
    with pytest.raises(UserError, match=r"^--set recipe\.epoch=2: .*did you mean 'epochs'"):
        job.overridden(["recipe.epoch=2"])


def test_an_interrupt_while_the_schema_is_built_stays_one(
    monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[], None]
) -> None:
    built: list[str] = []

    def rebuild() -> None:
        interrupt()
        built.append("whole")

    monkeypatch.setattr(JobSpec, "model_rebuild", rebuild)
    with pytest.raises(KeyboardInterrupt):
        JobSpec.load("quickstart")
    assert built == ["whole"]
