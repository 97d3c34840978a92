"""The sections of a job file: every field with its unit, range and default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ltm_platform.job.deepspeed_settings import taken
from ltm_platform.job.fields import (
    Alias,
    KeptFraction,
    KeptRange,
    Options,
    Plan,
    Retries,
    RunName,
    Section,
    Text,
    WorkerRange,
    Workers,
    conflict,
    exclusive,
)

BUDGETS = ("model.compression_ratio", "model.plan", "model.target_gmacs")
"""What a network may cost: a job says it by one of them, or leaves it to the default."""


class Model(Section):
    """The network and how its tokens are reduced."""

    backbone: Text
    """Name of the backbone, e.g. vit_base_patch16_224."""
    method: Text = "ltm"
    """Name of the method that reduces tokens; `none` is the same backbone without merging."""
    compression_ratio: KeptFraction | None = None
    """Kept fraction of the tokens, 1 keeps all; null is the backbone's default plan."""
    plan: Plan | None = None
    """What each site keeps, a number of tokens or [rows, columns], e.g. {blocks.0: 157}."""
    target_gmacs: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """A budget in 1e9 multiply-accumulates an image; the plan closest from below is taken."""
    elastic: KeptRange | None = None
    """Train every step at a ratio drawn from [low, high]: one checkpoint then serves them all."""
    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Height and width of the input in pixels; null is the backbone's own size."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: highest probability that a block is skipped in training."""
    pretrained: bool = False
    """Start from timm's published weights instead of random ones."""
    checkpoint: Text | None = None
    """Start from these weights: a local file, safetensors or torch, a run's checkpoint folder, or
    a run's name for its best checkpoint. The classifier is initialised again where it is for
    another number of classes."""
    options: Options = Field(default_factory=dict)
    """Further settings of the method, checked by the method itself."""

    @model_validator(mode="after")
    def _starts_from_one(self) -> Model:
        if self.pretrained and self.checkpoint:
            raise exclusive(model__checkpoint="null", model__pretrained="false")
        return self

    @model_validator(mode="after")
    def _has_one_budget(self) -> Model:
        given = {
            key.replace(".", "__"): "null"
            for key in BUDGETS
            if getattr(self, key.removeprefix("model.")) is not None
        }
        if len(given) > 1 and self.method != "none":
            raise exclusive(**given)
        return self


class Data(Section):
    """Where the images come from and how they are read."""

    path: Text
    """The word `digits` (the UCI digits that scikit-learn ships) or a folder: an image tree with
    one subfolder a class, optionally under train/ and val/, or our Parquet shards, which may also
    lie in an object store: s3://bucket/folder, gs://bucket/folder."""
    cache: Text | None = None
    """Folder on every node's own disk into which shards are copied when they are first read, for
    data in an object store or on a slow share; null reads them where they are."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the images held out for validation when the source has no validation split."""
    subset: KeptFraction = 1.0
    """Share of the training images, class by class, that is used at all."""
    fold: Annotated[int, Field(ge=0, le=999)] | None = None
    """Cross-validation: which of `folds` parts of the training images, from 0, is held out for
    validation in place of the validation images; null validates on those."""
    folds: Annotated[int, Field(ge=2, le=1000)] = 5
    """Number of equal parts, class by class, that `fold` counts."""
    limit_batches: Annotated[int, Field(ge=1, le=10**9)] | None = None
    """Batches of an epoch, and of its validation, of images that lie evenly among all: for a trial
    of a job; null takes all images."""
    allow_bad: Annotated[float, Field(ge=0, le=0.5)] = 0.001
    """Share of the images of each part that may be impossible to decode. In training the next image
    takes the place of such a one, in validation it is not counted; above the share the run ends."""
    exif: bool = True
    """Turn images as their EXIF orientation says; false shows them as they are stored, as timm
    does."""
    background: Literal["white", "black", "hidden"] = "white"
    """Colour that shows through transparent pixels; `hidden` is the one that the file holds beneath
    them, as timm has it."""
    decode: Literal["fast", "exact"] = "fast"
    """Pixels of training: `fast` decodes JPEGs scaled and only as far as the crop needs, `exact`
    gives timm's own at about twice the CPU time. Validation is always exact."""
    loader_workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = 1
    """Image decoding processes per worker; 0 decodes in the training process, auto takes the
    node's cores but for one a GPU, and 1 where there are no GPUs."""

    def limited(self, images: int, batch: int) -> int:
        """How many of the images an epoch takes, in batches of that size."""
        return images if self.limit_batches is None else min(images, self.limit_batches * batch)

    @model_validator(mode="after")
    def _is_a_fold(self) -> Data:
        if self.fold is not None and self.fold >= self.folds:
            raise conflict(
                f"data.fold is {self.fold}, but must be at most {self.folds - 1}: "
                f"data.folds is {self.folds}, and folds are counted from 0",
                "data.fold",
                "data.folds",
            )
        return self


class Engine(Section):
    """DeepSpeed's settings."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """What the workers shard: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too. With
    one worker nothing is sharded, whatever the stage."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the forward and backward pass; the optimizer always works in fp32. auto is
    bf16 on GPUs that have it, else fp32. fp16 scales the loss, skips the steps that overflow, and
    needs GPUs and a zero_stage from 1."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lies in the CPU's memory instead of the GPU's: the optimizer with its fp32 weights
    (needs a zero_stage from 1), or all, the weights too (needs zero_stage 3). Steps are slower."""
    compile: bool = False
    """Compile the network with torch.compile; the first steps take minutes. With `model.elastic`
    steps draw one of 8 ratios, and each is compiled once."""
    channels_last: bool | Literal["auto"] = "auto"
    """Keep images as [height, width, channel] in memory: faster convolutions on most GPUs; auto
    does so on GPUs, for networks whose convolutions are more than an embedding of patches."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a quarter to a third slower."""
    deepspeed: Options = Field(default_factory=dict)
    """Further settings of DeepSpeed, by its own names, for which no field is here, such as
    {zero_optimization: {overlap_comm: true}}; they need a zero_stage from 1."""

    def stage_of(self, workers: int) -> int:
        """The stage that so many workers train at.

        With one worker nothing is sharded; without ZeRO there is no second copy of weights and
        gradients. Scaling the loss and offloading are parts of ZeRO.
        """
        alone = workers == 1 and self.precision != "fp16" and self.offload == "none"
        return 0 if alone else self.zero_stage

    @model_validator(mode="after")
    def _decides_once(self) -> Engine:
        found = taken(self.deepspeed)
        if found:
            key, field = found
            raise conflict(
                f"engine.deepspeed has {key}, but {field} decides that: give {field} in its place",
                "engine.deepspeed",
                field,
            )
        if self.deepspeed and self.zero_stage == 0:
            raise conflict(
                "engine.deepspeed is given, but at engine.zero_stage 0 DeepSpeed takes no part: "
                "use a stage from 1 to 3",
                "engine.deepspeed",
                "engine.zero_stage",
            )
        return self

    @model_validator(mode="after")
    def _can_compile(self) -> Engine:
        if self.compile and self.zero_stage == 3:
            raise conflict(
                "engine.compile is true, but at engine.zero_stage 3 weights come and go within "
                "the network, which cannot be compiled: use a stage from 0 to 2",
                "engine.compile",
                "engine.zero_stage",
            )
        return self

    @model_validator(mode="after")
    def _can_offload(self) -> Engine:
        if self.offload != "none" and self.zero_stage == 0:
            raise conflict(
                f"engine.offload is {self.offload!r} at engine.zero_stage 0, where every worker "
                f"keeps its whole optimizer: use a stage from 1 to 3",
                "engine.offload",
                "engine.zero_stage",
            )
        if self.offload == "all" and self.zero_stage < 3:
            raise conflict(
                f"engine.offload is 'all', but at engine.zero_stage {self.zero_stage} the weights "
                f"stay on the GPU: use stage 3, or 'optimizer'",
                "engine.offload",
                "engine.zero_stage",
            )
        return self

    @model_validator(mode="after")
    def _can_scale_the_loss(self) -> Engine:
        # DeepSpeed clips otherwise in fp16 without ZeRO: the losses are not those of other stages.
        if self.precision == "fp16" and self.zero_stage == 0:
            raise conflict(
                "engine.precision is 'fp16' at engine.zero_stage 0, but needs a stage from 1 to 3",
                "engine.precision",
                "engine.zero_stage",
            )
        return self


class Checkpoint(Section):
    """What is stored of a run. A checkpoint is written at the end of every epoch, too."""

    every_steps: Annotated[int, Field(ge=1, le=10**9)] | None = 1000
    """Optimizer steps between checkpoints within an epoch; null writes none there."""
    keep: Annotated[int, Field(ge=1, le=100_000)] = 3
    """How many checkpoints are kept, the best by validation top-1; the last is kept besides."""


class Cluster(Section):
    """What the run requests from the Ray cluster."""

    address: Text | None = None
    """Where it runs: http://HOST:8265 sends it to that cluster, auto or HOST:PORT joins a Ray that
    is there, here starts one once this machine has room, local at once; null is $RAY_ADDRESS, else
    `cluster up --local`, else here."""
    workers: Workers | WorkerRange | Literal["auto"] = "auto"
    """Training processes; auto is one per GPU of the cluster or, with no GPU, one per CPU but at
    most 2. With [fewest, most] the run continues with what is there, and the global batch stays."""
    resize_interval_s: Annotated[float, Field(ge=0.1, le=86_400)] = 60.0
    """How often a run with a range of workers looks for more of them."""
    cpus_per_worker: Annotated[float, Field(ge=0.01, le=1024)] = 1.0
    """CPUs reserved for each worker, its image decoding processes included."""
    gpus_per_worker: Annotated[float, Field(ge=0.01, le=1)] = 1.0
    """Share of a GPU that is reserved for a worker where there are GPUs, and of its memory: below 1
    several runs or trials, of one worker each, share one."""
    accelerator: Text | None = None
    """Type of the GPUs to run on, by Ray's names, such as H100 or A10G; null takes any."""
    storage: Text | None = None
    """Folder or URI for checkpoints, reachable from every node; null is the user's data folder."""
    group: Text | None = None
    """Group of the system that may read and resume the run; null is $LTM_PLATFORM_GROUP, else
    nobody but the user may."""
    max_failures: Retries = 2
    """How often a run that broke (a worker died, hung or raised an error) continues from its last
    checkpoint before it ends as FAILED."""
    max_preemptions: Retries = 100
    """How often a run continues after the cluster took a node away, counted apart."""
    hang_timeout_s: Annotated[float, Field(ge=1, le=604_800)] = 1800.0
    """A worker that makes no progress for so many seconds writes its stacks to the log and ends."""

    @model_validator(mode="after")
    def _shares_a_gpu_alone(self) -> Cluster:
        if self.gpus_per_worker < 1 and self.workers not in (1, "auto"):
            raise conflict(
                f"cluster.gpus_per_worker is {self.gpus_per_worker:g}, but workers of one run "
                f"cannot share a GPU (NCCL refuses): use 1, or cluster.workers 1",
                "cluster.gpus_per_worker",
                "cluster.workers",
            )
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most workers; one, as far as the job knows, where they are ``auto``."""
        if isinstance(self.workers, tuple):
            return self.workers
        return (1, 1) if self.workers == "auto" else (self.workers, self.workers)


class Tracking(Section):
    """Where MLflow keeps the run."""

    uri: Text | None = None
    """MLflow tracking URI; null is $MLFLOW_TRACKING_URI, else a store in the user's data folder."""
    experiment: Text = "ltm-platform"
    """MLflow experiment that the run belongs to."""
    profile: bool = False
    """Trace ten steps of rank 0 with torch's profiler, as artifacts of the run: `submit --profile`.
    """
    log_model: bool = True
    """Log the best network as an MLflow model at the end of the run."""
    register_as: RunName | None = None
    """Name of the registered model of which that becomes the next version; null registers none."""
    aliases: list[Alias] = Field(default_factory=list)
    """Aliases of the registered model, such as best, that move to this version."""
    notify: Text | None = None
    """Who is told, in JSON, when the run ends, fails or is interrupted: an http or https address,
    which is posted to, or a command, which reads it; null is $LTM_PLATFORM_NOTIFY."""

    @model_validator(mode="after")
    def _has_what_it_registers(self) -> Tracking:
        if self.register_as and not self.log_model:
            raise conflict(
                "tracking.register_as is given, but tracking.log_model is false: "
                "there would be no model to register",
                "tracking.register_as",
                "tracking.log_model",
            )
        if self.aliases and not self.register_as:
            raise conflict(
                "tracking.aliases is given, but not tracking.register_as, "
                "the model that they are of",
                "tracking.aliases",
            )
        return self
