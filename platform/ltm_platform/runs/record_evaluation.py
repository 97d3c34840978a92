"""A method put on a trained network without training it any further, recorded as runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import ltm
from ltm_platform.inference.evaluate import KINDS
from ltm_platform.models import create_model
from ltm_platform.runs.driver import network_metrics
from ltm_platform.storage.manifest import EMA_FILE, WEIGHTS_FILE
from ltm_platform.storage.run_folder import RunFolder
from ltm_platform.tracking import EVALUATED_TAG, tracked_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ltm_platform.inference.evaluate import Evaluation, Score

_LONGEST_NAME = 40
_METRICS = {
    KINDS[WEIGHTS_FILE]: {"top1": "val/top1", "top5": "val/top5", "loss": "val/loss"},
    KINDS[EMA_FILE]: {"top1": "val/ema_top1"},
}


def record(evaluation: Evaluation, scores: Sequence[Score], source: str, uri: str) -> list[str]:
    """A run for each ratio, so that reports show it beside those that were trained; their names.

    source: whose weights were measured, a run's name or a checkpoint's folder.
    uri: the MLflow store.
    """
    names = []
    base = ltm.count(create_model(evaluation.job, len(evaluation.dataset.classes), method="none"))
    for one in evaluation.compressions:
        job = evaluation.job.replace("tracking.uri", uri)
        if one.ratio is not None:
            job = job.replace("model.compression_ratio", one.ratio)
        job = job.replace("name", f"{job.name[:_LONGEST_NAME]}-{job.model.method}")
        folder = RunFolder.reserve(job)
        metrics = network_metrics(one.cost, base, one.kept_tokens)
        for score in scores:
            if score.ratio == one.ratio:
                known = _METRICS[score.kind]
                metrics |= {key: getattr(score, name) for name, key in known.items()}
                metrics["val/images"] = score.images
        with folder.locked(), tracked_run(job, folder.name, folder.path, plan=one.plan) as run:
            run.tag(EVALUATED_TAG, source)
            run.log_metrics(metrics, step=0, time_ms=int(time.time() * 1000))
        names.append(folder.name)
    return names
