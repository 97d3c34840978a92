"""What training takes, by formula, beside what it is known to take."""

from __future__ import annotations

import pytest

from ltm_platform.job import JobSpec
from ltm_platform.training.measurement.estimates import (
    activations,
    checkpoint_bytes,
    memory,
    model_states,
    sent_bytes,
)

MILLION = 1_000_000


def test_a_stage_shares_out_more_than_the_one_before() -> None:
    states = [model_states(MILLION, stage, 8, half=False, ema=True) for stage in (1, 2, 3)]
    assert states == sorted(states, reverse=True)
    alone = [model_states(MILLION, 3, n, half=False, ema=False) for n in (1, 2, 4)]
    assert alone[0] == 2 * alone[1] == 4 * alone[2]


def test_without_zero_every_gpu_has_all() -> None:
    assert model_states(MILLION, 0, 8, half=False, ema=False) == 16 * MILLION
    assert model_states(MILLION, 0, 1, half=False, ema=True) == 20 * MILLION


def test_deepspeeds_own_estimates_stand_beside_ours() -> None:
    job = JobSpec.load("ltm_vit_b", ["data.path=digits"])
    rows = memory(job, 86 * MILLION, 2 * MILLION, workers=8, nodes=1)
    assert [row.deepspeed is None for row in rows] == [True, True, False, False]
    assert rows[2].deepspeed == 2 * 86 * MILLION + 18 * 86 * MILLION // 8
    assert rows[3].deepspeed_offloaded == 4 * 2 * MILLION
    assert all(0 < (row.deepspeed_offloaded or 1) <= (row.deepspeed or 1) for row in rows)


def test_the_moving_average_is_shared_out_with_the_weights_alone() -> None:
    def average(stage: int) -> int:
        both = [model_states(MILLION, stage, 4, half=False, ema=ema) for ema in (True, False)]
        return both[0] - both[1]

    assert [average(stage) for stage in range(4)] == [4 * MILLION] * 3 + [MILLION]


def test_what_a_gpu_is_spared_lies_in_the_cpus_memory() -> None:
    job = JobSpec.load("ltm_vit_b", ["data.path=digits", "recipe.ema_decay=0.9"])
    rows = memory(job, 8 * MILLION, MILLION, workers=8, nodes=1)
    none, optimizer, gradients, weights = rows
    assert none.offloaded is None
    assert none.host is None
    assert optimizer.offloaded == 12 * 8 * MILLION  # weights, gradients, average
    assert gradients.offloaded == 8 * 8 * MILLION
    assert weights.offloaded == 4 * MILLION  # the layer that is computed
    assert [row.host for row in rows[1:]] == [20 * MILLION, 20 * MILLION, 24 * MILLION]
    job = job.replace("engine.zero_stage", 3).replace("engine.offload", "optimizer")
    half_way = memory(job, 8 * MILLION, MILLION, workers=8, nodes=1)[3]
    assert (half_way.offloaded, half_way.host) == (8 * MILLION, 16 * MILLION)


def test_activations_grow_with_the_image_and_shrink_with_merging() -> None:
    def measured(*overrides: str) -> int:
        job = JobSpec.load("quickstart", ["model.backbone=vit_nano_patch4_32", *overrides])
        return activations(job, 10)

    plain = measured("model.method=none", "model.compression_ratio=null")
    assert measured("model.image_size=64", "model.method=none") > 3 * plain > 0
    half = measured("model.compression_ratio=0.5")
    assert half < measured("model.compression_ratio=0.9")


@pytest.mark.parametrize(("stage", "rounds"), [(0, 2), (1, 2), (2, 5), (3, 12)])
def test_bytes_sent_in_a_step(stage: int, rounds: int) -> None:
    sent = sent_bytes(MILLION, stage, 4, accumulation=4)
    assert sent == rounds * 4 * MILLION * 3 // 4
    assert sent_bytes(MILLION, stage, 1) == 0


def test_a_checkpoint_hardly_grows_with_the_workers() -> None:
    one, many = (checkpoint_bytes(MILLION, n, ema=True) for n in (1, 64))
    assert one < many < 1.1 * one
