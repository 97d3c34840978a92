from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ltm_platform.data import open_data
from ltm_platform.models import create_model, input_pixels
from ltm_platform.training.measurement import throughput
from ltm_platform.training.measurement.throughput import Throughput, measure

from ..small_run import MODEL, small_job

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("rates", "sentence"),
    [
        (Throughput(500, 4, 1900.0), "the loader will wait for the network"),
        (
            Throughput(500, 4, 2500.0),
            "the network will wait for images, 20% of the time: data.loader_workers=5 would do",
        ),
        (Throughput(500, 0, 1500.0), "data.loader_workers is 0: 75% of a step is decoding"),
        (Throughput(500, 4, None), None),
    ],
)
def test_which_of_the_two_waits_is_said(rates: Throughput, sentence: str | None) -> None:
    assert rates.verdict() == sentence


def test_both_are_tried_in_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "SECONDS", 0.01)
    job = small_job({"model": MODEL}, data__loader_workers="auto")
    dataset = open_data(job.data, cache=tmp_path)
    pixels = input_pixels(create_model(job, len(dataset.classes)))
    rates = measure(job, dataset, pixels, micro_batch=4, workers_here=1, use_gpu=False)
    assert rates.processes == 1
    assert rates.process > 0
    assert rates.network is not None
    assert rates.network > 0
