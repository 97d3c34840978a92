"""How the owner of a run is ended."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from ltm_platform.job import JobSpec
from ltm_platform.runs.driver import scaling_config, sigterm_is_interrupt


@pytest.mark.parametrize("before", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_interrupts_also_what_a_shell_started_in_the_background(
    before: signal.Handlers,
) -> None:
    usual = signal.signal(signal.SIGINT, before)
    try:
        with pytest.raises(KeyboardInterrupt), sigterm_is_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) == before
    finally:
        signal.signal(signal.SIGINT, usual)


def test_workers_have_the_share_and_the_type_of_gpu_that_the_job_wants() -> None:
    wishes = ["cluster.workers=1", "cluster.gpus_per_worker=0.25", "cluster.accelerator=H100"]
    job = JobSpec.load("quickstart", wishes)
    checked: Any = SimpleNamespace(job=job, batch=job.batch(1), use_gpu=True)
    scaling = scaling_config(checked)
    assert (scaling.num_workers, scaling.use_gpu) == (1, True)
    assert scaling.resources_per_worker == {"GPU": 0.25, "CPU": 1.0}
    assert scaling.accelerator_type == "H100"
    on_cpus: Any = SimpleNamespace(
        job=JobSpec.load("quickstart"), batch=job.batch(2), use_gpu=False
    )
    assert scaling_config(on_cpus).resources_per_worker == {"CPU": 1.0}
    assert scaling_config(on_cpus).num_workers == 2
