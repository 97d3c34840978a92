"""Carry out cells, each an MLflow run of the platform, and keep a JSON line of each."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ltm
from benchmarks.study.cells import BACKBONE, OFF_THE_SHELF, SIDE, Cell, base, job
from ltm.methods import untrained_options
from ltm_platform import api
from ltm_platform.job import JobSpec
from ltm_platform.storage.manifest import WEIGHTS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


BOTTLENECK = ("ib/mi_input", "ib/mi_label", "ib/loss", "train/ib_bound", "train/ib_grad_ratio")
"""What is kept of the last epoch's statistics."""


@dataclass(frozen=True)
class Place:
    """Where data sets and results are."""

    home: Path

    @property
    def results(self) -> Path:
        return self.home / "study.jsonl"

    def weights(self, row: Mapping[str, Any]) -> str:
        """The checkpoint of a network that was trained."""
        return str(self.home / row["weights"])

    def data(self, name: str, part: str) -> str:
        return "digits" if name == "digits" else str(self.home / "shards" / name / part)


def stored(place: Place) -> dict[Cell, dict[str, Any]]:
    """What was found, by cell; of a cell that was run again the last."""
    if not place.results.exists():
        return {}
    rows = [json.loads(line) for line in place.results.read_text().splitlines()]
    return {Cell(**row["cell"]): row for row in rows}


def carry_out(wanted: Iterable[Cell], place: Place, until: float) -> int:
    """Run what has not been run, until a time of `time.monotonic`; how many there are left."""
    found = stored(place)
    left = still_to_run(wanted, found, place)
    while left and time.monotonic() < until:
        cell, start = left.pop(0), time.perf_counter()
        scratch = cell.regime == "from scratch"
        weights = None if scratch else place.weights(found[base(cell.data, cell.seed)])
        try:
            if weights is not None and cell.regime == OFF_THE_SHELF:
                row = _off_the_shelf(cell, place, weights)
            else:
                row = _trained(cell, place, weights)
        except (api.UserError, ltm.FieldError) as refusal:  # a budget out of a schedule's reach
            row = {"refused": str(refusal)}
        row = {"cell": asdict(cell), **row, "seconds": round(time.perf_counter() - start, 1)}
        found[cell] = row
        with place.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{cell.name:<52}{row.get('test_top1', float('nan')):>8.2f}", flush=True)
    return len(left)


def still_to_run(
    wanted: Iterable[Cell], found: Mapping[Cell, dict[str, Any]], place: Place
) -> list[Cell]:
    """What has no result; and before it its base, where the weights of that are gone."""
    left: list[Cell] = []
    for cell in wanted:
        if cell in found:
            continue
        start = base(cell.data, cell.seed)
        there = start in found and Path(place.weights(found[start]), WEIGHTS_FILE).is_file()
        if cell.regime != "from scratch" and start not in left and not there:
            left.append(start)
        left.append(cell)
    return left


def _trained(cell: Cell, place: Place, start: str | None) -> dict[str, Any]:
    path = place.data(cell.data, "main")
    spec = JobSpec.from_dict(job(cell, path, cell.part * base_gmacs(), start))
    run = api.submit(spec, force=True)
    weights = str(run.best.location)
    score = _tested(cell, place, weights)
    bottleneck = {key: run.metrics[key] for key in BOTTLENECK if key in run.metrics}
    where = str(Path(weights).relative_to(place.home))
    found = {"run": run.name, "weights": where, "val_top1": run.best.top1}
    return {**found, "bottleneck": bottleneck, **score}


def _off_the_shelf(cell: Cell, place: Place, weights: str) -> dict[str, Any]:
    ratio = ratio_for(cell.method, cell.part * base_gmacs())
    return _tested(cell, place, weights, cell.method, ratio)


def _tested(
    cell: Cell, place: Place, weights: str, method: str | None = None, ratio: float | None = None
) -> dict[str, Any]:
    found = api.evaluate(
        weights,
        data=place.data(cell.data, "test"),
        method=method,
        ratios=() if ratio is None else (ratio,),
        workers=1,
    )
    (score,) = (score for score in found.scores if score.kind == "weights")
    return {"test_top1": score.top1, "test_images": score.images, "gmacs": score.gmacs}


@cache
def base_gmacs() -> float:
    with torch.device("meta"):
        return ltm.count(ltm.create_model(BACKBONE, "none", image_size=SIDE)).gmacs


@cache
def ratio_for(method: str, budget: float) -> float:
    """The compression ratio whose GMACs come closest to a budget from below."""
    with torch.device("meta"):
        model = ltm.create_model(
            BACKBONE,
            method,
            image_size=SIDE,
            target_gmacs=budget,
            **untrained_options(method),
        )
    ratio = model.compression
    assert isinstance(ratio, float)
    return ratio
