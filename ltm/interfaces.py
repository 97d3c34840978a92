"""The interfaces of methods, backbones and sites, which all other modules share.

A backbone says where tokens may be reduced and what must hold there (`SiteKind`, `Site`), and shows
a method what it asks for (`SiteInput`). A method says how they are reduced (`Method`), and answers
with a `ltm.merge.Merge`. A model has its compression (`Compressible`), whichever package made it.

Legend: B images, T all tokens, N tokens of the image, P slots, D channels, H heads, d channels of a
head. Tokens before those of the image (class, register tokens) are its prefix: T = prefix + N.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, is_dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from ltm.merge import Merge

Grid = tuple[int, int]
Kept = int | Grid
Plan = Mapping[str, Kept]

Spread = Literal["once", "constant", "decreasing", "geometric", "quarters", "powers"]
Grids = Literal["published", "ours", "refused"]
ActsOn = Literal["input", "attended"]
Reduces = Literal["tokens", "structure", "size"]
Evidence = Literal[
    "normed_input",
    "keys",
    "value_norms",
    "received",
    "received_before",
    "class_attention",
    "attention",
]
"""Names of what a method may ask to see, each a field of `SiteInput`."""

NOTHING: frozenset[Evidence] = frozenset()

OF_METHOD = "method."
"""How the names of a method's weights begin in the state dict of a network."""


class SiteKind(NamedTuple):
    """What sites have in common: channels of a token, and whether a grid must stay.

    head_dim: channels of a head of the block's attention; None where the backbone does not say.
    """

    dim: int
    needs_grid: bool
    head_dim: int | None = None


@dataclass(frozen=True)
class Site:
    """A place where tokens are reduced, as one model with one plan has it.

    name: timm's name of the module that merges, as in the plan.
    dim: channels of a token.
    grid: height and width of the tokens that arrive; None after a merge that keeps no grid.
    tokens: how many tokens arrive, at most.
    kept: how many stay, at most, or the grid that stays.
    tiles: rows and columns of such grids in an image; each merges on its own.
    """

    name: str
    dim: int
    grid: Grid | None
    tokens: int
    kept: Kept
    tiles: Grid = (1, 1)

    @property
    def slots(self) -> int:
        return self.kept if isinstance(self.kept, int) else math.prod(self.kept)


@dataclass(frozen=True)
class SiteInput:
    """What a method is given at a site in one forward pass.

    tokens: [B, N, D], those of the image alone.
    mass: [B, N], how many tokens of the image each one stands for; None for one each.
    present: [B, N] bool, False for padding; None where all are there.
    prefix: how many tokens stand before those of the image.

    The rest is there for a method that asks for it (`Method.wants`, `Method.needs`). "Attention" is
    the softmax of the block that the site is in; its queries and keys are the block's input.

    normed_input: [B, N, D], the block's input after its first norm, which queries are made from.
    keys: [B, N, d], mean over heads.
    value_norms: [B, H, N], L2 norm of each head's value.
    received: [B, N], attention to each token, mean over heads and all queries (the prefix, too).
    received_before: the same of the block before this one, None in the first. A slot made since
        then has received what its sources have.
    class_attention: [B, H, N], attention from the class token; without one, that from all tokens
        (mean over queries).
    attention: [B, H, T, T], the map itself, query by key, with the prefix.
    """

    tokens: Tensor
    site: Site
    mass: Tensor | None = None
    present: Tensor | None = None
    prefix: int = 0
    normed_input: Tensor | None = None
    keys: Tensor | None = None
    value_norms: Tensor | None = None
    received: Tensor | None = None
    received_before: Tensor | None = None
    class_attention: Tensor | None = None
    attention: Tensor | None = None


class Hooks(nn.Module):
    """What training calls of every method, of tokens and of structure. By default nothing happens.

    name: that of the registry, once it was built by it.
    reduces: "tokens", "structure": heads and hidden units, or "size": depth and width from the
        start.
    freezes_backbone: only the method's own parameters learn.
    adds_to_loss: it has `loss_terms`.
    scoring_images: training images, over all ranks, of a pass before the first step; 0 is no pass.
    whole_weights: the method looks at whole weights, which ZeRO stage 3 does not have, or changes
        what the network computes from step to step, which a compiled network does not see.
    shaped_by_plan: weights have what is kept in their shape: another plan is refused once they
        were used, see `Method.prepare`.
    ready_untrained: weights of its own at their start choose as well as a method without weights.
    untrained_options: options, in place of the defaults, for a network that was trained without
        merging and gets the method as it is.
    """

    name: str = ""
    reduces: ClassVar[Reduces] = "tokens"
    freezes_backbone: bool = False
    adds_to_loss: bool = False
    scoring_images: int = 0
    whole_weights: bool = False
    shaped_by_plan: bool = False
    ready_untrained: bool = False
    untrained_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy; what a forward pass in training left behind for the loss is without its graph."""
        for module in self.modules():
            for tensor in _tensors(vars(module)):
                if tensor.grad_fn is not None:
                    memo[id(tensor)] = tensor.detach().clone()
        new = memo[id(self)] = self.__class__.__new__(self.__class__)
        new.__dict__ = deepcopy(self.__getstate__(), memo)
        return new

    def rates(self) -> Mapping[str, float]:
        """Factor of the recipe's learning rate for parameters whose name holds the key."""
        return {}

    def loss_terms(self) -> dict[str, Tensor]:
        """Scalars by name, already weighted, from the last forward pass in training mode."""
        return {}

    def before_scoring(self, model: Any) -> None:
        """Before the scoring pass."""

    def score(self, model: Any, loss: Tensor) -> None:
        """One micro-batch of the scoring pass: its mean loss, with a graph."""

    def after_scoring(self, model: Any) -> None:
        """After the scoring pass. Collective: all ranks decide the same."""

    def before_training(self, model: Any) -> None:
        """Before the first step of a new run, and before the next one of a resumed run."""

    def after_step(self, model: Any, step: int, steps: int) -> Collection[nn.Parameter] | None:
        """After optimizer step `step`, from 1, of all `steps`. Collective.

        Returns the parameters of which it has set elements to 0. An optimizer that keeps a copy of
        its own then has to set it to 0 where they are.
        """


def _tensors(value: Any) -> Iterator[Tensor]:
    """All that lie in a value: in lists, dicts and dataclasses, not in modules."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple | set):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors(vars(value))


class Method(Hooks):
    """Decides, at every site, how tokens merge. The backbone decides where, and what must hold.

    A method sees a `SiteInput` and returns a `Merge`; it never sees the backbone. When `site.kept`
    is a grid, slot r * columns + c must stand for row r and column c of it.

    acts_on: "attended", tokens after the attention of the block and before its MLP, or "input",
        those that enter the block, whose attention then runs on fewer. A network of windows or
        convolutions has one place only and takes it for both, see the backbone.
    wants: what it looks at where the backbone has it; the field is None elsewhere.
    needs: what it cannot do without; a backbone that does not have it is refused.
    varies: the number of slots differs between images: they are padded, and `Merge.present` says
        which are there. Where costs are counted, without values, all that the plan allows are.
    keeps_grid: tokens must lie on a grid after a merge, whatever the backbone needs.
    proportional: attention after a merge adds log(size) to its logits (ToMe, arXiv 2210.09461,
        section 3), where the backbone has softmax attention over tokens.
    grids: where the network needs a grid, what the method does about it: as "published", by a rule
        of "ours", or it is "refused" there, for the reason `why_no_grid`.
    spread: how a compression ratio is spent by default, see `ltm.plan.SCHEDULES`.
    skips: sites at the start of the network where it does not act, unless a plan says so.
    learns_mass: in training, sizes of tokens carry a gradient, and where no grid has to stay all
        tokens do: those that would leave lose their mass (`ltm.merge.Soft`, `ltm.merge.Masked`).
    sees_itself: in training, a token that has lost its mass still attends to itself in full
        (DynamicViT, arXiv 2106.02034, section 3.2).

    What holds for its slots is declared by the `Merge` that it returns: `Merge.convex`,
    `Merge.linear`, `Merge.keeps_mass`.
    """

    acts_on: ActsOn = "attended"
    wants: frozenset[Evidence] = NOTHING
    needs: frozenset[Evidence] = NOTHING
    varies: bool = False
    keeps_grid: bool = False
    proportional: bool = True
    grids: ClassVar[Grids] = "ours"
    why_no_grid: ClassVar[str] = ""
    spread: Spread = "once"
    skips: int = 0
    learns_mass: bool = False
    sees_itself: bool = False

    @property
    def asks(self) -> frozenset[Evidence]:
        """All that it looks at, `wants` and `needs`."""
        return self.wants | self.needs

    def prepare(self, sites: Mapping[str, Site], like: Tensor) -> None:
        """Before a compression is set: these are the sites that it makes, none at ratio 1.

        Of interest to a method whose parameters have the number of slots in their shape. It makes
        them here, on the device and in the dtype of `like`, and anew as often as it is asked to
        before they were used (a budget is found by trying). From then on another number is a
        FieldError. Such a method declares `shaped_by_plan`, see `ltm.methods.slots`.
        """

    def check_weights(self, state: Mapping[str, Tensor]) -> None:
        """Before these weights of the method are loaded: FieldError when they are of another plan.

        state: its part of a model's state dict, by its own names.
        """

    def learned_plan(self, state: Mapping[str, Tensor]) -> Plan | None:  # noqa: ARG002
        """The plan that was learned by a model with this state dict, which it takes from there.

        Of interest to a method that learns how many tokens stay; None where none was learned.
        """
        return None

    def before_finetuning(self) -> None:
        """Loaded weights are where training starts: from the plan that was asked for."""

    @abstractmethod
    def forward(self, given: SiteInput) -> Merge:
        """Reduce the tokens of a site to `site.slots` slots, or, of a method that varies, to at
        most as many.
        """


class Compressible(nn.Module):
    """The compression of a model, whatever the method. By default it has none.

    `compressible` gives it for every model of `ltm.create_model`.
    """

    cost_is_learned: ClassVar[bool] = False
    """Multiply-accumulates and parameters are known after training alone."""

    @property
    @abstractmethod
    def plan(self) -> Any:
        """What every site, or every part, keeps, as `set_compression` takes it."""

    @property
    @abstractmethod
    def compression(self) -> Any:
        """The setting: a kept fraction, a plan, or None for the default."""

    @property
    def kept_tokens(self) -> float | None:
        """The fraction of the tokens that all merges together leave, at most; None for a model in
        which no tokens leave."""
        return None

    @abstractmethod
    def set_compression(self, to: Any = None, *, gmacs: float | None = None) -> None:
        """Set the kept fraction in (0, 1], or a plan, or None for the default; weights stay.

        gmacs: a budget in 1e9 MACs an image, in the place of those.

        FieldError, and no change, when the ratio or plan is not possible here.
        """

    def before_load(self, state: Mapping[str, Tensor]) -> None:
        """Before this state dict is loaded: take its shape."""

    def after_load(self, state: Mapping[str, Tensor]) -> None:
        """After this state dict was loaded."""

    def may_be_missing(self, key: str) -> bool:
        """Whether a state dict may come without this key: those of the method start as they are."""
        return key.startswith("method.")

    def before_finetuning(self) -> None:
        """Loaded weights are where training starts, and may be compressed further."""

    def compacted(self) -> nn.Module:
        """The network as it is used after training: itself, or a smaller one that is equal."""
        return self


class Uncompressed(Compressible):
    """A model without a method, seen as one that keeps everything."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def plan(self) -> dict[str, Kept]:
        return {}

    @property
    def compression(self) -> None:
        return None

    def set_compression(self, to: Any = None, *, gmacs: float | None = None) -> None:
        assert to in (None, 1), "a model without a method keeps everything"
        assert gmacs is None, "a model without a method has one cost"

    def compacted(self) -> nn.Module:
        return self.model


def compressible(model: nn.Module) -> Compressible:
    """The compression of any model: the model itself where it has a method."""
    return model if isinstance(model, Compressible) else Uncompressed(model)
