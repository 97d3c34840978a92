"""Training without ZeRO."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ltm_platform.training.engine.ddp import BUCKET_MB

from .. import scenarios, without_zero
from ..without_zero import RANKS

if TYPE_CHECKING:
    from ..rank_pool import RankPool

BUCKET_BYTES = BUCKET_MB * 2**20

WITHOUT_DEEPSPEED = """
import sys
import torch, torch.distributed as dist
import ltm
from ltm_platform.job import JobSpec
from ltm_platform.training.engine.build import build_engine, deepspeed_config
from ltm_platform.training.engine.weights import gather_weights
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
job = JobSpec.load("quickstart", ["engine.zero_stage=0", "cluster.workers=1"])
model = ltm.create_model("vit_nano_patch4_32", "ltm", num_classes=10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
config = deepspeed_config(job, job.batch(1))
engine = build_engine(model, optimizer, config, device=torch.device("cpu"))
logits, _ = engine(torch.zeros(2, 3, 32, 32))
engine.backward(logits.sum())
engine.step()
gather_weights(engine)
print("deepspeed" in sys.modules)
"""


@pytest.mark.parametrize("rank", range(RANKS))
def test_ranks_train_what_one_process_trains_with_torch_alone(ranks: RankPool, rank: int) -> None:
    """Accumulated and clipped, with parameters that are frozen, that no loss depends on, and that a
    loss depends on but no output."""
    seen = ranks.run(RANKS, without_zero.trained)[rank]
    torch.testing.assert_close(seen["ranks"], seen["plain"], rtol=1e-4, atol=1e-6)
    assert (seen["ranks"]["unused"] < 1).all()  # it decays
    assert (seen["ranks"]["frozen"] == 1).all()


@pytest.mark.parametrize("rank", range(RANKS))
def test_ranks_that_resume_continue_to_the_bit(ranks: RankPool, rank: int) -> None:
    seen: list[dict[str, Any]] = ranks.run(RANKS, without_zero.trained)
    undisturbed = seen[rank]["undisturbed"]
    assert sum(weight.nbytes for weight in undisturbed.values()) > 2 * BUCKET_BYTES
    for name, weight in undisturbed.items():
        assert torch.equal(seen[rank]["resumed"][name], weight), name
        assert torch.equal(seen[0]["undisturbed"][name], weight), name


def test_gradients_travel_in_several_buckets(ranks: RankPool) -> None:
    (alone,), both = ranks.run(1, scenarios.buckets), ranks.run(2, scenarios.buckets)
    assert sum(weight.nbytes for weight in alone["end"].values()) > 2 * BUCKET_BYTES
    for one in both:
        # but for the bound, whose clusters know no float noise
        losses = [torch.tensor(seen["losses"])[:, :2] for seen in (one, alone)]
        torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one["end"], alone["end"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 2])
def test_weights_without_gradient_decay_like_all(ranks: RankPool, workers: int) -> None:
    seen = ranks.run(workers, scenarios.buckets)[0]
    start, end = (seen[when]["method.masks.192.project.weight"] for when in ("start", "end"))
    assert end.norm() < start.norm()


def test_deepspeed_is_not_loaded() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_DEEPSPEED], capture_output=True, text=True, check=False
    )
    assert (ran.stdout.strip(), ran.returncode) == ("False", 0), ran.stderr
