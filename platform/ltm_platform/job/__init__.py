"""The job file: what it may say (`sections`), how it is read (`load`), and the value it becomes."""

from ltm_platform.job.batch import BatchPlan
from ltm_platform.job.change import changes
from ltm_platform.job.sections import (
    Augment,
    Bottleneck,
    Checkpoint,
    Cluster,
    Data,
    Distill,
    Engine,
    Mix,
    Model,
    Recipe,
    Tracking,
)
from ltm_platform.job.spec import JobSpec

__all__ = [
    "Augment",
    "BatchPlan",
    "Bottleneck",
    "Checkpoint",
    "Cluster",
    "Data",
    "Distill",
    "Engine",
    "JobSpec",
    "Mix",
    "Model",
    "Recipe",
    "Tracking",
    "changes",
]
