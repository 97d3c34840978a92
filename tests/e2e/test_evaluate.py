"""Stored weights are measured as training measured them, on any number of workers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ltm_platform.storage.checkpoints import stored
from ltm_platform.storage.run_folder import RunFolder

from .conftest import settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ltm_platform.tracking import RunRecord

    from .conftest import Cli

    Trained = Callable[..., RunRecord]

pytestmark = pytest.mark.slow


def test_one_worker_finds_what_two_found_and_other_ratios_come_with_it(
    cli: Cli, trained: Trained
) -> None:
    run = trained(3)
    ratios = ("--ratio", "0.7", "--ratio", "1")
    done = cli("evaluate", run.name, "--last", "--workers", "1", *ratios, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [(row["kind"], row["ratio"]) for row in rows] == [
        ("weights", 0.7),
        ("weights", 1.0),
        ("EMA", 0.7),
        ("EMA", 1.0),
    ]
    for row in rows:
        assert row["images"] == 359
    own, whole, average, _ = rows
    assert own["top1"] == pytest.approx(run.metrics["val/top1"], abs=0.3)  # one image
    assert own["top5"] == pytest.approx(run.metrics["val/top5"], abs=0.3)
    assert own["loss"] == pytest.approx(run.metrics["val/loss"], rel=1e-4)
    assert average["top1"] == pytest.approx(run.metrics["val/ema_top1"], abs=0.3)
    assert own["gmacs"] == pytest.approx(run.metrics["model/gmacs"])
    assert whole["gmacs"] > own["gmacs"]
    assert whole["loss"] != own["loss"]


def test_what_comes_from_one_base_at_one_budget(cli: Cli, tiny_job: Path) -> None:
    def done(*words: str) -> str:
        answer = cli(*words)
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    alone = settings("engine.zero_stage=0", "cluster.workers=1", "recipe.epochs=1")
    base = settings("model.method=none", "recipe.ib.weight=0")
    shown = done("submit", str(tiny_job), "--name", "base", *alone, *base)
    assert "--set model.method=ltm --set recipe.ib.weight=0.1" in shown
    shown = done("evaluate", "base", "--method", "ltm", "--target-gmacs", "0.0118")
    untrained = shown.split()[-1]
    tuned = settings("model.checkpoint=base", "model.target_gmacs=0.0118")
    shown = done("submit", str(tiny_job), "--name", "tuned", *alone, *tuned)
    assert "ltm keeping 0.672 of the tokens at blocks.0" in shown
    columns = json.loads(done("compare", "base", untrained, "tuned", "--json"))
    without, first, second = (column["figures"] for column in columns)
    assert without["kept tokens"] is None
    assert first["kept tokens"] == pytest.approx(second["kept tokens"], abs=2 / 64)
    assert all(0.95 * 0.0118 < one["GMACs"] <= 0.0118 for one in (first, second))
    assert [column["params"]["model.plan"] for column in columns][1:] == [
        str({"blocks.0": round(64 * one["kept tokens"])}) for one in (first, second)
    ]


def test_what_does_not_fit_is_refused_before_ray_starts(
    cli: Cli, trained: Trained, home: Path, tmp_path: Path
) -> None:
    run = trained(3)
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (32, 32), (number * 30, 0, 0))
            image.save(tmp_path / "pets" / label / f"{number}.png")
    checkpoint = stored(RunFolder(home / "runs" / run.name))[-1].path
    for words, says in (
        ((str(checkpoint), "--data", str(tmp_path / "pets")), "classes"),
        ((str(checkpoint), "--ratio", "1.5"), "(0, 1]"),
        ((str(checkpoint), "--workers", "64"), "64"),
    ):
        refused = cli("evaluate", *words)
        assert refused.returncode == 2, words
        assert says in refused.stderr
        assert "Traceback" not in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
