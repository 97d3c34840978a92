"""The job file: its fields (`sections`, `recipe`), how it is read (`load`), and its value."""

from ltm_platform.job.batch import BatchPlan
from ltm_platform.job.change import changes
from ltm_platform.job.recipe import (
    ITSELF,
    Augment,
    BackboneRate,
    Bottleneck,
    Distill,
    Mix,
    Recipe,
)
from ltm_platform.job.sections import BUDGETS, Checkpoint, Cluster, Data, Engine, Model, Tracking
from ltm_platform.job.spec import JobSpec
from ltm_platform.job.stored import completed

__all__ = [
    "BUDGETS",
    "ITSELF",
    "Augment",
    "BackboneRate",
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
    "completed",
]
