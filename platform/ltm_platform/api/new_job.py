"""A job file for somebody who has none yet."""

from __future__ import annotations

from pathlib import Path

import yaml

from ltm.errors import FieldError
from ltm_platform.api.process import restored_process
from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec
from ltm_platform.storage import locations
from ltm_platform.storage.files import written_whole

DEFAULT_RATIO = 0.7
TEXT = """\
# Train with: ltm-platform submit {file}
# Try it first, in a few steps: ltm-platform submit {file} --smoke
# All fields, and what they are here: ltm-platform validate {file}

model:
  backbone: {backbone}
  method: ltm                    # learnable token merging; none trains the same network without
  {budget}
  pretrained: {pretrained}{pretrained_comment}

data:
  path: {data}{data_comment}
  loader_workers: auto           # processes that decode images, by the cores of the node

recipe:
  epochs: {epochs}
  global_batch: 256              # images a step, over all workers
  lr: {lr}
  min_lr: 1e-6
  weight_decay: 0.05
  warmup_epochs: {warmup}
  clip_grad: 1.0
  ema_decay: 0.999               # a moving average of the weights is evaluated, too

engine:
  zero_stage: 1                  # DeepSpeed ZeRO: 0, 1, 2 or 3
  precision: auto                # bf16 on GPUs that have it, else fp32

cluster:
  workers: auto                  # one a GPU, or at most two on the CPU
"""
FOLDERS = "  # train/<class>/*.jpg and val/<class>/*.jpg, or <class>/*.jpg alone"
WEIGHTS = "               # begin with timm's published weights"


@restored_process()
def new_job(
    file: str | Path,
    *,
    data: str,
    backbone: str,
    compression_ratio: float | None = None,
    target_gmacs: float | None = None,
) -> Path:
    """Write a commented job file that trains ``backbone`` on ``data``; its path.

    A backbone for which timm has weights begins with them, for 50 epochs; another one is trained
    from scratch.

    Args:
        data: as ``data.path``.
        compression_ratio: the kept fraction of the tokens; `DEFAULT_RATIO` if no budget is given.
        target_gmacs: in its place, a budget in 1e9 multiply-accumulates an image.

    Raises:
        UserError: the file is there already, or the job would be wrong. Nothing is written.
    """
    from timm.models import is_model_pretrained

    from ltm.backbones import find_backbone
    from ltm_platform.checks import check_job, check_network

    path = Path(file)
    path = path if path.suffix else path.with_suffix(".yaml")
    if path.exists():
        raise UserError(f"{locations.shown(path)} is there already: choose another name")
    if compression_ratio is not None and target_gmacs is not None:
        raise UserError("compression_ratio and target_gmacs are both given: a job has one of them")
    try:
        name, _ = find_backbone(backbone)
    except FieldError as error:
        raise UserError(error.sentence("backbone")) from None
    known = is_model_pretrained(name)
    if target_gmacs is not None:
        budget = f"target_gmacs: {target_gmacs:g}              # 1e9 multiply-accumulates an image"
    else:
        kept = DEFAULT_RATIO if compression_ratio is None else compression_ratio
        budget = f"compression_ratio: {kept:g}         # kept fraction of the tokens"
    text = TEXT.format(
        file=path,
        backbone=_yaml(backbone),
        budget=budget,
        pretrained=str(known).lower(),
        pretrained_comment=WEIGHTS if known else "",
        data=_yaml(data),
        data_comment=FOLDERS if Path(data).expanduser().is_dir() else "",
        epochs=50 if known else 100,
        lr="5e-5" if known else "1e-3",
        warmup=2 if known else 5,
    )
    try:
        with written_whole(path) as part:
            part.write_text(text)
            job = JobSpec.load(part)
            check_job(job)
            check_network(job)
    except OSError as error:
        raise UserError(f"{locations.shown(path)} cannot be written: {error.strerror}") from None
    return path


def _yaml(value: str) -> str:
    """A string as a YAML scalar, quoted where it must be."""
    return str(yaml.safe_dump(value, width=2**16)).splitlines()[0]
