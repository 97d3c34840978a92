"""What may be tuned, and what a trial's job looks like."""

from __future__ import annotations

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.tuning import keep_ratios
from ltm_platform.tuning.params import (
    KNOWN,
    Param,
    Range,
    Values,
    read_params,
    with_values,
)


@pytest.fixture(scope="module")
def job() -> JobSpec:
    return JobSpec.load("quickstart")


def read(job: JobSpec, *texts: str) -> tuple[Param, ...]:
    return read_params(texts, job, lambda: keep_ratios.sites(job))


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_name_has_a_range_that_the_job_takes(job: JobSpec, name: str) -> None:
    (param,) = read(job, name)
    assert isinstance(param.domain, Range)
    for end in param.domain.ends:
        with_values(job, {param.field: end}, name)


@pytest.mark.parametrize(
    ("text", "field", "domain"),
    [
        ("recipe.lr=log:1e-5:1e-2", "recipe.lr", Range(1e-5, 1e-2, log=True)),
        ("lr=1e-4:1e-3", "recipe.lr", Range(1e-4, 1e-3)),
        ("recipe.epochs=2:8", "recipe.epochs", Range(2, 8, integer=True)),
        ("ib_warmup=0:1", "recipe.ib.warmup", Range(0, 1)),
        ("model.method=choice:ltm,none", "model.method", Values(("ltm", "none"))),
        (
            "compression_ratio=grid:0.5,0.7",
            "model.compression_ratio",
            Values((0.5, 0.7), grid=True),
        ),
        ("recipe.sync_bn=choice:true,false", "recipe.sync_bn", Values((True, False))),
        ("recipe.ema_decay=choice:null,0.9", "recipe.ema_decay", Values((None, 0.9))),
        ("model.options.rank=choice:8,16", "model.options.rank", Values((8, 16))),
    ],
)
def test_forms(job: JobSpec, text: str, field: str, domain: Range | Values) -> None:
    assert read(job, text) == (Param(field, domain),)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("compresion_ratio", "did you mean 'compression_ratio'"),
        ("recipe.lrr=1:2", "did you mean 'recipe.lr'"),
        ("epochs=2:3", "did you mean 'recipe.epochs'"),
        ("recipe.epochs", "there is no range known for recipe.epochs: write recipe.epochs=..."),
        ("lr=5:1", "a range goes from low to high"),
        ("lr=log:0:1", "a log range begins above 0"),
        ("lr=1e-3", "write LOW:HIGH"),
        ("lr=choice:fast,slow", "recipe.lr is 'fast'"),
        ("lr=choice:1e-3,,1e-4", "'' is not one value"),
        ("lr=choice:1e-3,1e-3", "given twice"),
        ("recipe.lr=log:1e-5:20", "recipe.lr is 20, but must be from 1e-12 to 10"),
        ("recipe.epochs=0:4", "recipe.epochs is 0, but must be from 1 to 100000"),
        ("recipe.epochs=2.5:4", "recipe.epochs is 2.5"),
        ("keep_ratio.blocks.99", "allowed: blocks.0, blocks.1"),
        ("keep_ratios=0:1", "a keep ratio is 0, but must be greater than 0"),
        ("cluster.workers=1:2", "nothing that can be tuned"),
    ],
)
def test_what_cannot_be_is_one_sentence(job: JobSpec, text: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        read(job, text)
    assert sentence in str(error.value)
    assert f"--param {text}" in str(error.value)


@pytest.mark.parametrize("texts", [(), ("lr", "recipe.lr"), ("compression_ratio", "keep_ratios")])
def test_what_does_not_go_together(job: JobSpec, texts: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        read(job, *texts)


def test_a_lower_rate_takes_its_end_with_it(job: JobSpec) -> None:
    changed = with_values(job, {"recipe.lr": 1e-5}, "x")
    assert changed.recipe.min_lr / changed.recipe.lr == pytest.approx(
        job.recipe.min_lr / job.recipe.lr
    )


def test_fewer_epochs_take_the_warm_up_with_them(job: JobSpec) -> None:
    changed = with_values(job, {"recipe.epochs": 1}, "x")
    share = job.recipe.warmup_epochs / job.recipe.epochs
    assert changed.recipe.warmup_epochs == pytest.approx(share)
    with pytest.raises(UserError, match="warmup_epochs is 2, but must be at most"):
        with_values(job, {"recipe.epochs": 1, "recipe.warmup_epochs": 2}, "x")


def test_a_ratio_takes_the_place_of_a_plan(job: JobSpec) -> None:
    planned = job.replace("model.compression_ratio", None).replace("model.plan", {"blocks.1": 30})
    changed = with_values(planned, {"model.compression_ratio": 0.5}, "x")
    assert (changed.model.plan, changed.model.compression_ratio) == (None, 0.5)
