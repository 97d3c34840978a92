"""What every rank runs to measure stored weights: no engine, no training state."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

from ltm_platform.job import JobSpec

BATCH = 64


class ScoringConfig(TypedDict):
    """What the driver decided."""

    job: dict
    cache: str
    checkpoint: str
    files: list[str]
    """Weights in the checkpoint's folder."""
    ratios: list[float | None]


class ScoringResult(TypedDict):
    """What all ranks found together."""

    rows: list[dict[str, Any]]
    """One for every file at every ratio."""
    left_out: list[str]
    """Images that cannot be decoded and are not counted, a sentence each."""


def score_checkpoint(config: ScoringConfig) -> ScoringResult:
    """Scores of every file at every ratio; the same on all ranks.

    Raises:
        UserError: on all ranks, more images than ``data.allow_bad`` cannot be decoded.
    """
    # The driver imports this module too, and must not load what only ranks need.
    import ray.train
    import ray.train.torch
    import torch

    from ltm_platform.data import open_data
    from ltm_platform.data.pixels.on_device import ToNetwork
    from ltm_platform.data.processes import loader_processes
    from ltm_platform.models import create_model, input_pixels, load_weights
    from ltm_platform.training.engine.device import own_precision, set_up
    from ltm_platform.training.left_out import LeftOut
    from ltm_platform.training.measurement.evaluation import score, validation_loader

    job = JobSpec.from_dict(config["job"])
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    set_up(device)
    cache = Path(config["cache"])
    dataset = open_data(job.data, cache=cache, copying=True)
    model = create_model(job, len(dataset.classes)).eval().to(device)
    pixels = input_pixels(model)
    to_network = ToNetwork(pixels.mean, pixels.std)
    loader = validation_loader(
        job.data,
        dataset.val,
        pixels,
        batch=BATCH,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        workers=loader_processes(
            job.data.loader_workers,
            context.get_local_world_size(),
            use_gpu=device.type != "cpu",
        ),
    )
    precision = own_precision(job, device)

    def logits(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            return model(to_network(images))

    rows = []
    left_out = LeftOut([loader.bad])
    try:
        for file in config["files"]:
            load_weights(model, Path(config["checkpoint"]) / file)
            for ratio in config["ratios"]:
                if ratio is not None:
                    model.set_compression(ratio)
                scores = score(logits, loader, device)
                left_out.exchange()
                rows.append({"file": file, "ratio": ratio, "scores": scores})
    finally:
        loader.close()
    return ScoringResult(rows=rows, left_out=sorted(loader.bad.found.values()))
