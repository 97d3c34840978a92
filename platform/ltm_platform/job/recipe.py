"""How the weights are learned: every field with its unit, range and default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ltm_platform.job.fields import (
    Epochs,
    Images,
    KeptFraction,
    KeptRange,
    LearningRate,
    Probability,
    Section,
    Text,
    conflict,
)


class Bottleneck(Section):
    """The information bottleneck term of the loss."""

    weight: Annotated[float, Field(ge=0, le=1000)] = 0.1
    """Factor of the bound in the loss; 0 trains with cross-entropy alone."""
    warmup: Probability = 0.3
    """Share of the epochs, from the first, that train without the bound."""
    beta: Annotated[float, Field(ge=0.001, le=10_000)] = 5.0
    """Sharpness of the soft assignment to centroids; larger is harder."""
    clusters: Annotated[int, Field(ge=2, le=100_000)] | None = None
    """Number of centroids; null is the number of classes."""


class Augment(Section):
    """Random changes to the training images; validation images are never changed."""

    crop_scale: KeptRange = (0.08, 1.0)
    """Smallest and largest share of the image's area that a random crop covers."""
    hflip: Probability = 0.5
    """Probability of a horizontal flip; 0 where left and right matter, as in digits."""
    color_jitter: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Strength of random brightness, contrast and saturation; 0 is off."""
    auto_augment: Text | None = None
    """timm's policy string, e.g. rand-m9-mstd0.5; null is off."""
    random_erasing: Probability = 0.0
    """Probability that a random rectangle is replaced by noise."""


class Mix(Section):
    """Mixing pairs of training images and their labels, drawn again at every step."""

    mixup: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Mixup: both numbers of the Beta distribution of the shares; 0 is off."""
    cutmix: Annotated[float, Field(ge=0, le=100)] = 0.0
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


ITSELF = "itself"


class Distill(Section):
    """Learning from a teacher as well as from the labels."""

    teacher: Text | None = None
    """Name of the teacher network, or a run's checkpoint folder, or itself for the job's network
    without its method, with the weights that it starts from; null trains without a teacher."""
    checkpoint: Text | None = None
    """Local file with the weights of a teacher given by name; null is timm's published ones."""
    weight: Probability = 0.5
    """Share of the teacher's logits in the loss."""
    labels: Annotated[float, Field(ge=0, le=1000)] | None = None
    """Factor of the labels' cross-entropy beside a teacher; null is what weight leaves of 1."""
    features: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Factor of the mean squared difference between the pooled features of both networks."""
    tokens: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """Factor of the mean squared difference between the final tokens that a method keeps and the
    teacher's at the same places; for methods that keep or drop tokens, on plain ViTs."""
    temperature: Annotated[float, Field(ge=0.01, le=1000)] = 1.0
    """Divisor of both networks' logits; larger gives unlikely classes more weight."""

    @property
    def looks_at_tokens(self) -> bool:
        return self.teacher is not None and self.tokens > 0

    @property
    def looks_at_features(self) -> bool:
        return self.teacher is not None and self.features > 0

    @property
    def of_labels(self) -> float:
        """Factor of the cross-entropy beside a teacher."""
        return 1 - self.weight if self.labels is None else self.labels

    @model_validator(mode="after")
    def _checkpoint_has_a_network(self) -> Distill:
        if self.checkpoint and not self.teacher:
            raise conflict(
                "recipe.distill.checkpoint is given, "
                "but not recipe.distill.teacher, the network that it is for",
                "recipe.distill.checkpoint",
            )
        if self.checkpoint and self.teacher == ITSELF:
            raise conflict(
                f"recipe.distill.checkpoint is given, but recipe.distill.teacher is {ITSELF!r}, "
                "which has the weights that the network starts from",
                "recipe.distill.checkpoint",
                "recipe.distill.teacher",
            )
        return self


class Consistency(Section):
    """A second pass of every batch, in which fewer tokens leave."""

    below: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """In the second pass a number of tokens, drawn for every step from 0 up to less than this,
    leaves each block of a plain ViT, and its labels count as the first one's do; null has no second
    pass."""
    weight: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Factor of the mean squared difference between the features of both passes."""
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Features are compared of images whose labels the network gives more than this probability."""


class BackboneRate(Section):
    """How fast the network learns beside the weights of its method's own, which follow lr."""

    share: KeptFraction = 1.0
    """Learning rate of the network's weights, as a share of that of the method's."""
    constant: bool = False
    """The share is of recipe.lr itself, at most the method's rate, instead of what the schedule
    makes of it."""
    frozen_epochs: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    """Epochs, also fractions of one, from the first, in which the network's weights stand still:
    all of them, and the method learns alone.
    Where a later file or an override leaves no more epochs, it keeps its share of them."""

    @property
    def differs(self) -> bool:
        return self.share < 1 or self.constant or self.frozen_epochs > 0


class Recipe(Section):
    """How the weights are learned."""

    epochs: Epochs = 300
    """Passes over the training images."""
    global_batch: Images = 256
    """Images per optimizer step, over all workers: the same for one worker or eight."""
    micro_batch: Images | Literal["auto"] | None = None
    """Most images per forward pass of one worker; what its share of the global batch has more is
    accumulated. Batch normalisation takes its statistics over so many: workers with smaller shares
    join theirs. null is no limit, auto the largest that fits the memory, found at the start."""
    optimizer: Text = "adamw"
    """Name of a timm optimizer."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of an optimizer that has one: sgd, which wants more than 0, momentum, lars."""
    lr: LearningRate = 2e-4
    """Learning rate after warm-up; it falls to min_lr along a cosine."""
    min_lr: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Learning rate at the end."""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Decoupled weight decay; biases and normalisation layers are spared."""
    warmup_epochs: Annotated[float, Field(ge=0, le=100_000)] = 0.0
    """Epochs, also fractions of one, in which the learning rate rises to lr. Where a later file or
    an override leaves fewer epochs than that, it keeps its share of them."""
    backbone: BackboneRate = Field(default_factory=BackboneRate)
    """How fast the network learns beside its method."""
    layer_decay: KeptFraction | None = None
    """Factor of the learning rate from a layer to the one before it; null is one rate for all."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the target probability spread over all classes."""
    clip_grad: Annotated[float, Field(ge=1e-6, le=1e6)] | None = None
    """Largest L2 norm of the gradient; null does not clip."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of the moving average of the weights; null keeps no average."""
    sync_bn: bool = False
    """Batch normalisation over the micro-batches of all workers instead of each worker's own."""
    freeze: list[Text] = Field(default_factory=list)
    """Parts that keep their weights: names such as patch_embed or blocks.0, or patterns with *."""
    early_stop: Epochs | None = None
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
    consistency: Consistency = Field(default_factory=Consistency)
    """Learning to be the same with fewer tokens as with more."""

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
