"""Every benchmark runs, at its smallest size; what it measures there means nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import pytest

from .conftest import LEAN, ROOT, TIMEOUT_S, settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .forks import Forks

pytestmark = pytest.mark.slow


class Smoke(NamedTuple):
    """How the smallest run of a benchmark is started, and a line that it prints."""

    options: str
    line: str


TINY, SMALL = "vit_nano_patch4_32", "vit_tiny_patch16_224"
NUMBER = r"\d[\d.,]*"

SMOKES: Mapping[str, Smoke] = {
    "analysis": Smoke(
        "--data digits --methods topk --epochs 1 --finetune 1 --images 4", r"digits +topk +{N}"
    ),
    "checkpoint": Smoke(f"--backbone {TINY} --batch 4 --saves 1 --steps 1", r"stall +{N} s"),
    "cli_startup": Smoke("--runs 1", r"--help: {N} s"),
    "every_job": Smoke("--jobs quickstart", r"quickstart +{N} +{N} +{N}"),
    "gpu": Smoke(
        "--tiny --parts step attention losses copies disk", r"\| vit_nano_patch4_32 \| {N} \| {N}"
    ),
    "ib_overhead": Smoke(
        f"--backbone {SMALL} --batch 2 --classes 4 --runs 1", r"streaming statistics +{N} ms"
    ),
    "inference": Smoke(
        f"--backbones {SMALL} --methods ltm --batch 1 --runs 1", rf"{SMALL} *ltm +plan +{{N}}"
    ),
    "loader": Smoke(
        "--images 32 --batch 8 --workers 1 --rounds 1 --steps 1 --index 100", r"shards +100 +{N}"
    ),
    "mask_learning": Smoke("--data digits --seeds 0 --steps 8", r"digits +content +{N} ±"),
    "methods": Smoke(
        "--methods ltm tome --seeds 0 --steps 4 --finetune 4 --runs 1", r"tome +{N} +{N} ±"
    ),
    "off_the_shelf": Smoke(
        "--nets average --rows tome --parts 0.8 --seeds 0 --steps 4", r"tome +{N} ±"
    ),
    "scale": Smoke("--workers 2 --reports 1", r" 2 +{N} +{N} +{N}"),
    "scaling_table": Smoke("", r"\| 512 \| {N} \| {N} \|"),
    "startup": Smoke(
        f"--cold --rounds 1 {' '.join(settings(*LEAN, 'data.subset=0.2'))}", r"best +{N} +{N} +{N}"
    ),
    "study": Smoke("--quick", r"\| fine-tuned \| 0.65 \| `ltm` \| {N} \(1\) \|"),
    "tome": Smoke(
        f"--backbone {SMALL} --r 8 --batch 1 --runs 1 --processes 1", r" 8 +{N} +{N} +{N}"
    ),
    "tracking": Smoke("--trials 1 --steps 2", r"arrived +8 of 8 values"),
    "training": Smoke(
        f"--backbone {TINY} --image-size 32 --images 32 --batch 8 --workers 1 --turns 1"
        " --seconds 1",
        r" 1 +{N} +{N} +{N}",
    ),
    "tune_overhead": Smoke(
        "--trials 2 --epochs 1 --set data.subset=0.2", r"after the first: {N} s"
    ),
}
PARTS = {"first_step": "startup", "timm_loop": "training"}
"""Programs that a benchmark starts."""
ELSEWHERE = {"campaign": "test_campaign"}
"""Tests that run one for more than its smallest size."""


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py")))
def test_a_benchmark_runs_at_its_smallest(name: str, forks: Forks, tmp_path: Path) -> None:
    if name in PARTS:
        assert f"{name}.py" in (ROOT / "benchmarks" / f"{PARTS[name]}.py").read_text()
        return
    if name in ELSEWHERE:
        test = (ROOT / "tests/e2e" / f"{ELSEWHERE[name]}.py").read_text()
        assert f'"benchmarks" / "{name}.py"' in test
        return
    assert name in SMOKES, "give its smallest size above"
    smoke = SMOKES[name]
    command = [str(ROOT / "benchmarks" / f"{name}.py"), *smoke.options.split()]
    done = forks.run(command, tmp_path, TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(smoke.line.replace("{N}", NUMBER), done.stdout), done.stdout
