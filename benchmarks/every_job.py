"""Every bundled job for real: `submit --smoke` of each by one worker, on generated JPEGs.

    python benchmarks/every_job.py
    python benchmarks/every_job.py --jobs ltm_vit_b savit_efficientvit_b1_r224 --batch 4

Six optimizer steps, two validations, a checkpoint and a resume from it, in a Ray that this process
starts once. The global batch is small; where there is no GPU, bf16 gives way to fp32, which CPUs
are faster in. Published weights are left out, and a teacher with them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.gpu.bench import generate
from benchmarks.study.own_ray import own_ray
from ltm_platform import api
from ltm_platform.job.load import bundled_folder


def overrides(data: Path, batch: int) -> list[str]:
    settings = [
        f"data.path={data}",
        "data.loader_workers=1",
        "model.pretrained=false",
        "recipe.distill.teacher=null",
        f"recipe.global_batch={batch}",
        f"recipe.micro_batch={batch}",
        "cluster.workers=1",
    ]
    return settings if torch.cuda.is_available() else [*settings, "engine.precision=fp32"]


def smoke_all(jobs: list[str], settings: list[str]) -> None:
    print(f"{'job':<30}{'all s':>8}{'a step s':>10}{'GiB':>7}")
    began = time.perf_counter()
    for name in jobs:
        start = time.perf_counter()
        found = api.smoke(name, overrides=settings).forecast
        seconds = time.perf_counter() - start
        print(
            f"{name:<30}{seconds:>8.0f}{found.step_s:>10.2f}{found.memory_gib:>7.2f}",
            flush=True,
        )
    print(f"{'all':<30}{time.perf_counter() - began:>8.0f}")


def main() -> None:
    bundled = sorted(file.stem for file in bundled_folder().glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=bundled, default=bundled, metavar="JOB")
    parser.add_argument("--batch", type=int, default=2, help="global batch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ltm-every-job-") as folder:
        data = Path(folder) / "photographs"
        generate(data, train=4 * args.batch, val=4 * args.batch)
        with own_ray(Path(folder) / "home"):
            smoke_all(args.jobs, overrides(data, args.batch))


if __name__ == "__main__":
    main()
