"""What a job file may say, section by section: every field with its unit, range and default."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_VERSION = re.compile(r"[vV]\d+")


def conflict(sentence: str, *keys: str) -> PydanticCustomError:
    """Fields that cannot go together; ``keys`` are their names, the likeliest culprit first."""
    return PydanticCustomError("conflict", "{sentence}", {"sentence": sentence, "keys": keys})


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value


def _run_name(value: str) -> str:
    # The name becomes a folder name and part of URLs.
    if not _NAME.fullmatch(value) or ".." in value:
        raise ValueError(
            "must be 1 to 63 lower-case letters, digits, '-', '_' and single dots, "
            "the first a letter or a digit"
        )
    return value


def _alias(value: str) -> str:
    if not _ALIAS.fullmatch(value) or _VERSION.fullmatch(value) or value == "latest":
        raise ValueError(
            "must be letters, digits, '-' and '_', but neither latest nor v with a number, "
            "which MLflow keeps for itself"
        )
    return value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("must have the smaller number first")
    return value


def _plain(value: Any) -> Any:
    """A copy of ``value`` if YAML and JSON can hold it exactly, else ValueError."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or not key or "." in key:
                raise ValueError("must have names without dots as keys")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must hold finite numbers only")
    if value is not None and not isinstance(value, (bool, int, float, str)):
        raise ValueError("must hold only text, numbers, true, false, null, lists and mappings")
    return value


Text = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
RunName = Annotated[str, Field(min_length=1), AfterValidator(_run_name)]
Alias = Annotated[str, Field(min_length=1), AfterValidator(_alias)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
KeptFraction = Annotated[float, Field(gt=0, le=1)]
# YAML has lists, not tuples, hence not strict; the two numbers inside still are.
KeptRange = Annotated[
    tuple[KeptFraction, KeptFraction], Field(strict=False), AfterValidator(_ordered)
]
WorkerRange = Annotated[tuple[Count, Count], Field(strict=False), AfterValidator(_ordered)]
Plan = dict[str, Count | Annotated[tuple[Count, Count], Field(strict=False)]]
Options = Annotated[
    dict[str, Any],
    BeforeValidator(lambda value: {} if value is None else value),
    AfterValidator(_plain),
]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown fields, no silent conversion, no NaN."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,  # keeps `import ltm_platform.job` fast
    )


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
    target_gmacs: Positive | None = None
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
    """Start from these weights: a local file, safetensors or torch, or a run's checkpoint folder.
    The classifier starts anew where it is for another number of classes."""
    options: Options = Field(default_factory=dict)
    """Further settings of the method, checked by the method itself."""

    @model_validator(mode="after")
    def _starts_from_one(self) -> Model:
        if self.pretrained and self.checkpoint:
            raise conflict(
                "model.pretrained is true and model.checkpoint is given, "
                "but a network starts from one of them",
                "model.checkpoint",
                "model.pretrained",
            )
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
    fold: Annotated[int, Field(ge=0)] | None = None
    """Cross-validation: which of `folds` parts of the training images, from 0, is held out for
    validation in place of the validation images; null validates on those."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Number of equal parts, class by class, that `fold` counts."""
    loader_workers: Annotated[int, Field(ge=0, le=256)] = 1
    """Image decoding processes per worker; 0 decodes in the training process."""

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


class Bottleneck(Section):
    """The information bottleneck term of the loss."""

    weight: NotNegative = 0.1
    """Factor of the bound in the loss; 0 trains with cross-entropy alone."""
    warmup: Probability = 0.3
    """Share of the epochs, from the first, that train without the bound."""
    beta: Positive = 5.0
    """Sharpness of the soft assignment to centroids; larger is harder."""
    clusters: Annotated[int, Field(ge=2)] | None = None
    """Number of centroids; null is the number of classes."""


class Augment(Section):
    """Random changes to the training images; validation images are never changed."""

    crop_scale: KeptRange = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random crop covers."""
    hflip: Probability = 0.5
    """Probability of a horizontal flip; 0 where left and right matter, as in digits."""
    color_jitter: NotNegative = 0.0
    """Strength of random brightness, contrast and saturation; 0 is off."""
    auto_augment: Text | None = None
    """timm's policy string, e.g. rand-m9-mstd0.5; null is off."""
    random_erasing: Probability = 0.0
    """Probability that a random rectangle is replaced by noise."""


class Mix(Section):
    """Mixing pairs of training images and their labels, drawn anew at every step."""

    mixup: NotNegative = 0.0
    """Mixup: both numbers of the Beta distribution of the shares; 0 is off."""
    cutmix: NotNegative = 0.0
    """CutMix: both numbers of the Beta distribution of the areas; 0 is off."""
    prob: Probability = 1.0
    """Probability that a step mixes at all."""
    switch_prob: Probability = 0.5
    """Probability of CutMix where Mixup is on, too."""
    until: Probability = 1.0
    """Share of the epochs, from the first, that mix."""

    @property
    def enabled(self) -> bool:
        return (self.mixup > 0 or self.cutmix > 0) and self.prob > 0 and self.until > 0


class Distill(Section):
    """Learning from the logits of a teacher as well as from the labels."""

    teacher: Text | None = None
    """Name of the teacher network, or a run's checkpoint folder; null trains without a teacher."""
    checkpoint: Text | None = None
    """Local file with the weights of a teacher given by name; null is timm's published ones."""
    weight: Probability = 0.5
    """Share of the teacher in the loss; the labels have the rest."""
    temperature: Positive = 1.0
    """Divisor of both networks' logits; larger tells more of the unlikely classes."""

    @model_validator(mode="after")
    def _checkpoint_has_a_network(self) -> Distill:
        if self.checkpoint and not self.teacher:
            raise conflict(
                "recipe.distill.checkpoint is given, "
                "but not recipe.distill.teacher, the network that it is for",
                "recipe.distill.checkpoint",
            )
        return self


class Recipe(Section):
    """How the weights are learned."""

    epochs: Count = 300
    """Passes over the training images."""
    global_batch: Count = 256
    """Images per optimizer step, over all workers: the same for one worker or eight."""
    micro_batch: Count | Literal["auto"] | None = None
    """Images per forward pass of one worker, accumulated up to its share of the global batch; null
    is the whole share, auto the largest part of it that fits the memory, tried at the start."""
    optimizer: Text = "adamw"
    """Name of a timm optimizer."""
    lr: Annotated[float, Field(gt=0, le=10)] = 2e-4
    """Learning rate after warm-up; it falls to min_lr along a cosine."""
    min_lr: NotNegative = 0.0
    """Learning rate at the end."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay; biases and normalisation layers are spared."""
    warmup_epochs: NotNegative = 0.0
    """Epochs, also fractions of one, in which the learning rate rises to lr."""
    layer_decay: KeptFraction | None = None
    """Factor of the learning rate from a layer to the one before it; null is one rate for all."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target probability spread over all classes."""
    clip_grad: Positive | None = None
    """Largest L2 norm of the gradient; null does not clip."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of the moving average of the weights; null keeps no average."""
    sync_bn: bool = False
    """Batch normalisation over the micro-batches of all workers instead of each worker's own."""
    freeze: list[Text] = Field(default_factory=list)
    """Parts that keep their weights: names such as patch_embed or blocks.0, or patterns with *."""
    early_stop: Count | None = None
    """Epochs without a better val/top1 after which training ends; null trains all epochs."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of the initial weights, the order of the images and their random changes."""
    ib: Bottleneck = Field(default_factory=Bottleneck)
    """The information bottleneck term of the loss."""
    augment: Augment = Field(default_factory=Augment)
    """Random changes to the training images."""
    mix: Mix = Field(default_factory=Mix)
    """Mixing pairs of training images and their labels."""
    distill: Distill = Field(default_factory=Distill)
    """Learning from a teacher."""

    @model_validator(mode="after")
    def _schedule_fits(self) -> Recipe:
        if self.min_lr > self.lr:
            raise conflict(
                f"recipe.min_lr is {self.min_lr:g}, but must be at most recipe.lr, {self.lr:g}",
                "recipe.min_lr",
                "recipe.lr",
            )
        if self.warmup_epochs > self.epochs:
            raise conflict(
                f"recipe.warmup_epochs is {self.warmup_epochs:g}, "
                f"but must be at most recipe.epochs, {self.epochs}",
                "recipe.warmup_epochs",
                "recipe.epochs",
            )
        return self


class Engine(Section):
    """DeepSpeed's settings."""

    zero_stage: Annotated[int, Field(ge=0, le=3)] = 1
    """What the workers share out: 0 nothing, 1 optimizer state, 2 gradients too, 3 weights too.
    One worker alone shares out nothing, whatever the stage."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward and backward pass; the optimizer always works in fp32. fp16
    scales the loss, skips the steps that overflow, and needs GPUs and a zero_stage from 1."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What lies in the CPU's memory instead of the GPU's: the optimizer with its fp32 weights
    (needs a zero_stage from 1), or all, the weights too (needs zero_stage 3). Steps are slower."""
    compile: bool = False
    """Compile the network with torch.compile; the first steps take minutes."""
    channels_last: bool = False
    """Keep images as [height, width, channel] in memory: faster convolutions on most GPUs."""
    grad_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, a quarter to a third slower."""

    def stage_of(self, workers: int) -> int:
        """The stage that so many workers train at.

        One alone shares out nothing; without ZeRO it has no second copy of weights and gradients.
        Scaling the loss and offloading are parts of ZeRO.
        """
        alone = workers == 1 and self.precision != "fp16" and self.offload == "none"
        return 0 if alone else self.zero_stage

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
    """What is kept of a run. A checkpoint is written at the end of every epoch, too."""

    every_steps: Count | None = 1000
    """Optimizer steps between checkpoints within an epoch; null writes none there."""
    keep: Count = 3
    """How many checkpoints are kept, the best by validation top-1; the last is kept besides."""


class Cluster(Section):
    """What the run asks of the Ray cluster."""

    address: Text | None = None
    """Where it runs: http://HOST:8265 sends it to that cluster, auto or HOST:PORT joins a Ray that
    is there, local starts one; null is $RAY_ADDRESS, else `cluster up --local`, else local."""
    workers: Count | WorkerRange | Literal["auto"] = "auto"
    """Training processes; auto is one per GPU of the cluster or, with no GPU, one per CPU but at
    most 2. With [fewest, most] the run goes on with what is there, and the global batch stays."""
    resize_interval_s: Positive = 60.0
    """How often a run with a range of workers looks for more of them."""
    cpus_per_worker: Positive = 1.0
    """CPUs reserved for each worker, its image decoding processes included."""
    storage: Text | None = None
    """Folder or URI for checkpoints, reachable from every node; null is the user's data folder."""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """How often a run that broke (a worker died, hung or raised an error) goes on from its last
    checkpoint before it ends as FAILED."""
    max_preemptions: Annotated[int, Field(ge=0)] = 100
    """How often a run goes on after the cluster took a node away, counted apart."""
    hang_timeout_s: Annotated[float, Field(ge=1)] = 1800.0
    """A worker that makes no progress for so many seconds writes its stacks to the log and ends."""

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
    log_model: bool = True
    """Log the best network as an MLflow model at the end of the run."""
    register_as: RunName | None = None
    """Name of the registered model of which that becomes the next version; null registers none."""
    aliases: list[Alias] = Field(default_factory=list)
    """Aliases of the registered model, such as best, that move to this version."""

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
