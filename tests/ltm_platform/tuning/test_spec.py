"""A sweep as a value: what goes together, and what a stage of it is."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.tuning.spec import DEFAULT_TRIALS, Sweep, read_stages

if TYPE_CHECKING:
    from pathlib import Path

SWEEP = Sweep("s", JobSpec.load("quickstart").to_dict(), ("lr",))


def test_a_sweep_is_read_as_it_was_saved(tmp_path: Path) -> None:
    sweep = replace(SWEEP, objectives=("val/top1", "model/gmacs"), trials=3, scheduler="asha")
    sweep.save(tmp_path)
    assert Sweep.load(tmp_path) == sweep


def test_a_sweep_of_an_earlier_version_keeps_its_pixels(tmp_path: Path) -> None:
    data = {key: SWEEP.job["data"][key] for key in ("path", "val_fraction")}
    replace(SWEEP, job=SWEEP.job | {"data": data}).save(tmp_path)
    job = JobSpec.from_dict(Sweep.load(tmp_path).job)
    assert (job.data.exif, job.data.background) == (False, "hidden")


@pytest.mark.parametrize(
    ("params", "search", "trials", "expected"),
    [
        (("lr",), None, None, ("optuna", DEFAULT_TRIALS)),
        (("lr", "recipe.optimizer=choice:adamw,sgd"), None, 5, ("optuna", 5)),
        (("lr",), "random", 3, ("random", 3)),
        (("lr=grid:1e-3,1e-4", "ib_weight=grid:0.1,0.2,0.3"), None, None, ("grid", 6)),
        (("lr=grid:1e-3,1e-4", "ib_weight"), None, 3, ("random", 6)),
        (("lr=choice:1e-3,1e-4",), "grid", None, ("grid", 2)),
    ],
)
def test_which_search_and_how_many_trials(
    params: tuple[str, ...], search: str | None, trials: int | None, expected: tuple[str, int]
) -> None:
    (stage,) = read_stages(replace(SWEEP, params=params, search=search, trials=trials))
    assert (stage.search, stage.trials) == expected


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"search": "optina"}, "did you mean 'optuna'"),
        ({"search": "grid"}, "list them, as --param recipe.lr=grid:"),
        ({"search": "optuna", "params": ("lr=grid:1e-3,1e-4",)}, "say choice: instead"),
        ({"params": ("lr=grid:1e-3,1e-4",), "trials": 4}, "a grid has 2 trials"),
        ({"trials": 0}, "must be from 1 to 10000"),
        ({"trials": 10**30}, "must be from 1 to 10000"),
        ({"seed": -1}, "--seed is -1, but must be from 0 to 4294967295"),
        (
            {
                "params": (
                    "lr=grid:" + ",".join(f"1e-{n}" for n in range(1, 12)),
                    *tuple(
                        f"{name}=grid:" + ",".join(f"0.{n}" for n in range(1, 10))
                        for name in ("ib_warmup", "drop_path", "weight_decay", "ib_weight")
                    ),
                )
            },
            "at most 10000 can be run",
        ),
        ({"search": "x" * 5000}, "..."),
        ({"params": ("x" * 5000,)}, "is nothing that can be tuned"),
        ({"objectives": ("\x1b[2J",)}, "is no metric"),
        ({"scheduler": "pbt"}, "use asha or median"),
        ({"scheduler": "ash"}, "did you mean 'asha'"),
        ({"scheduler": "asha", "grace": 16}, "after 1 to 15 epochs"),
        ({"scheduler": "asha", "objectives": ("model/gmacs",)}, "name val/top1 first"),
        ({"protocol": "publshed"}, "did you mean 'published'"),
        ({"protocol": "published"}, "tunes ib_weight and ib_warmup alone"),
        ({"protocol": "published", "params": (), "trials": 2}, "leave --search"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read_stages(replace(SWEEP, **changes))
    assert sentence in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1300


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"name": 1}',
        '{"name": "s", "job": {}, "params": [1]}',
        "\ud800",
        "[" * 9999,
    ],
)
def test_a_file_that_is_no_sweep_is_told_in_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(UserError, match="is no sweep") as error:
        Sweep.load(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_the_published_protocol_is_two_stages_of_five_folds_on_a_tenth() -> None:
    sweep = replace(SWEEP, params=("ib_weight=grid:0.1,0.2",), protocol="published")
    first, second = read_stages(sweep)
    assert [param.field for param in first.params] == ["recipe.ib.weight", "data.fold"]
    assert [param.field for param in second.params] == ["recipe.ib.warmup", "data.fold"]
    assert first.trials == 10
    assert (first.job.data.subset, first.job.data.folds) == (0.1, 5)
