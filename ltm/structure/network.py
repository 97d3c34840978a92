"""Networks of several families whose heads and hidden units can be gated, and removed for good."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from timm.models.byobnet import ByobNet
from timm.models.efficientvit_mit import EfficientVit
from timm.models.vision_transformer import VisionTransformer

from ltm._arguments import check_budget, whole
from ltm.adopt import adopt
from ltm.errors import FieldError, quoted
from ltm.flops import count, image_size_of
from ltm.interfaces import Compressible
from ltm.plan import DEFAULT_RATIO, check_names, check_ratio
from ltm.structure.parts import Part, find_parts
from ltm.structure.select import even_plan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ltm.interfaces import Grid
    from ltm.structure.gate import Gate
    from ltm.structure.method import StructureMethod

_EXACT = 1e-12  # GMACs that are rounding


class PrunableModel(Compressible):
    """Mixin for a timm model from which components leave: heads, hidden units, channels.

    In training all are there, and gates close those that are to leave. `compact` removes them for
    good: what is left is timm's own network with smaller layers, which computes the same. Its state
    dict has no gates, and its shapes are the pruned ones: `before_load` follows it.

    compression_ratio is the kept fraction of the MACs, target_gmacs the MACs themselves, and a plan
    says how many components stay in a part, such as {"blocks.0.attn": 4, "blocks.0.mlp": 900}.

    full: components of every part before any left. part_gmacs: of one component, in 1e9 MACs an
    image. base_gmacs: of the whole network.
    """

    cost_is_learned = True

    timm_name: str
    image_size: Grid
    method: StructureMethod
    full: dict[str, int]
    part_gmacs: dict[str, float]
    base_gmacs: float
    _wish: float | Mapping[str, int] | None

    def measure(self) -> None:
        """Count the components and what each costs. Before any gate is there."""
        cost = count(self)
        self.base_gmacs = cost.gmacs
        self.full = {part.name: part.size for part in self.parts()}
        self.part_gmacs = {name: cost.blocks[name].gmacs / n for name, n in self.full.items()}

    def parts(self) -> list[Part]:
        return find_parts(self)

    @property
    def gated(self) -> list[tuple[Part, Gate]]:
        """Every part with its gate; none after `compact`."""
        return [(part, part.gate) for part in self.parts() if part.gate is not None]

    @property
    def plan(self) -> dict[str, int]:
        """How many components of every part stay."""
        if any(gate.kept.is_meta for _, gate in self.gated):
            return self.plan_for(self._wish)  # nothing was scored without values
        gates = {part.name: gate for part, gate in self.gated}
        return {
            part.name: int(gates[part.name].kept.sum()) if part.name in gates else part.size
            for part in self.parts()
        }

    @property
    def compression(self) -> float | Mapping[str, int] | None:
        """The setting: a kept fraction of the MACs, a plan, or None for the default."""
        return self._wish

    @property
    def least_gmacs(self) -> float:
        """With one component in every part."""
        return self.base_gmacs - sum(self.part_gmacs[n] * (k - 1) for n, k in self.full.items())

    def gmacs_of(self, plan: Mapping[str, int]) -> float:
        """1e9 MACs an image when so many components stay."""
        gone = sum(self.part_gmacs[name] * (self.full[name] - plan[name]) for name in self.full)
        return self.base_gmacs - gone

    def set_compression(
        self, to: float | Mapping[str, int] | None = None, *, gmacs: float | None = None
    ) -> None:
        """Close gates until a ratio of the MACs is left, or what a plan says.

        The same share leaves every part, see `StructureMethod.at_start` for which. None: the
        default ratio. A method's own scores choose again in training. gmacs: 1e9 MACs an image, in
        the place of a ratio or plan.

        FieldError, and no change, when it is not possible, or when components have left for good.
        """
        if gmacs is not None:
            if to is not None:
                beside = "is given beside another compression"
                raise FieldError("gmacs", gmacs, "one of them", beside)
            to = self.ratio_of(gmacs)
        if not self.gated:
            if to is None or to == self.plan:
                return
            raise FieldError(
                "compression_ratio",
                to,
                problem="cannot change after training: heads and units that were removed do not "
                "come back",
            )
        plan = self.plan_for(to)
        self._wish = to
        for part, gate in self.gated:
            gate.close(self.method.at_start(part, plan[part.name]))

    def plan_for(self, to: float | Mapping[str, int] | None) -> dict[str, int]:
        """The number of components of every part for a ratio of the MACs, or for a plan."""
        sizes = {part.name: part.size for part in self.parts()}
        if isinstance(to, Mapping):
            check_names(to, sizes)
            for name, kept in to.items():
                if not 1 <= (whole(kept) or 0) <= sizes[name]:
                    allowed = f"a number from 1 to {sizes[name]}"
                    raise FieldError("plan", kept, allowed, f"keeps {quoted(kept)} at {name}")
            return {**sizes, **{name: int(kept) for name, kept in to.items()}}
        target = self.target_gmacs(to)
        heads = [part.name for part in self.parts() if part.heads]
        excess = max(0.0, self.gmacs_of(sizes) - target)
        return even_plan(sizes, self.part_gmacs, heads, excess - _EXACT)

    def target_gmacs(self, ratio: float | None) -> float:
        """1e9 MACs of a ratio. FieldError when no network is so small."""
        ratio = DEFAULT_RATIO if ratio is None else check_ratio(ratio)
        least = self.least_gmacs / self.base_gmacs
        if ratio < least:
            raise FieldError(
                "compression_ratio",
                ratio,
                f"{least:.3f} to 1, for a method that removes heads and units of {self.timm_name}",
                f"is {ratio:.4g}",
            )
        return ratio * self.base_gmacs

    def ratio_of(self, gmacs: float, field: str = "gmacs") -> float:
        """The kept fraction of a budget in 1e9 MACs. FieldError when no network is so small."""
        if check_budget(field, gmacs) < self.least_gmacs:
            raise FieldError(
                field,
                gmacs,
                f"{self.least_gmacs:.4g} or more for this model at {self.image_size[0]} x "
                f"{self.image_size[1]} pixels; without pruning it takes {self.base_gmacs:.4g}",
            )
        return min(1.0, gmacs / self.base_gmacs)

    def compact(self) -> None:
        """Remove what gates have closed, for good. The network computes the same, faster."""
        plan = self.plan
        for part, gate in self.gated:
            index = gate.kept.int().argsort(descending=True, stable=True)[: plan[part.name]]
            part.drop_gate()
            part.keep(index.sort().values)

    def add_gates(self) -> None:
        """Open gates for all components that are there."""
        for part in self.parts():
            if part.gate is None:
                part.add_gate()

    def before_load(self, state: Mapping[str, Tensor]) -> None:
        """Take the shape of a network with this state dict; weights are arbitrary until loaded.

        Gates stay unless components have left for good. A state dict of another network changes
        nothing.
        """
        try:
            sizes = {part.name: part.size_in(state) for part in self.parts()}
        except (KeyError, IndexError, ZeroDivisionError):
            return
        if any(not 1 <= n <= self.full[name] for name, n in sizes.items()):
            return
        removed = sizes != self.full and not self._has_gates(state)
        for part in self.parts():
            if part.size != sizes[part.name]:
                part.drop_gate()
                index = next(part.module.parameters()).new_empty(sizes[part.name]).fill_(0).long()
                part.keep(index)
            if removed:
                part.drop_gate()
            elif part.gate is None:
                part.add_gate()

    def after_load(self, state: Mapping[str, Tensor]) -> None:
        """After this state dict was loaded: what its gates closed leaves for good.

        Weights of a whole network bring no gates: those of this one close again.
        """
        if self._has_gates(state):
            self.compact()
        elif self.gated:
            self.set_compression(self._wish)

    def may_be_missing(self, key: str) -> bool:
        return super().may_be_missing(key) or any(key in part.gate_keys() for part in self.parts())

    def before_finetuning(self) -> None:
        """Of a network that was pruned before, further components may leave."""
        self.add_gates()
        self.set_compression(self.compression)

    def compacted(self) -> nn.Module:
        """The network itself, or, where gates are closed, a copy without what they close."""
        if not self.gated:
            return self
        copy = deepcopy(self)
        copy.compact()
        return copy

    def _has_gates(self, state: Mapping[str, Tensor]) -> bool:
        return any(key in state for part in self.parts() for key in part.gate_keys())


class PrunableViT(PrunableModel, VisionTransformer):
    """timm's plain ViT: heads and MLP units may leave."""


class PrunableMobileViT(PrunableModel, ByobNet):
    """timm's MobileViT: heads and MLP units of its transformers may leave, convolutions stay."""


class PrunableEfficientViT(PrunableModel, EfficientVit):
    """timm's EfficientViT (B series): heads, and expanded channels of MBConv, may leave."""


_CLASSES: tuple[tuple[type[nn.Module], type[PrunableModel]], ...] = (
    (VisionTransformer, PrunableViT),
    (ByobNet, PrunableMobileViT),
    (EfficientVit, PrunableEfficientViT),
)


def prunable(name: str, method: str, model: nn.Module, size: Grid | None = None) -> Any:
    """timm's model of that name as a prunable network, with open gates, for images of a size.

    FieldError for a family whose heads and units cannot leave one by one.
    """
    cls = next((cls for base, cls in _CLASSES if type(model) is base), None)
    if cls is None or not find_parts(model):
        problem = f"is {method!r}, which cannot remove heads and units of {name}"
        raise FieldError("method", method, "a plain ViT, MobileViT or EfficientViT", problem)
    adopted = adopt(cls, model)
    adopted.timm_name = name
    adopted.image_size = size or image_size_of(model)
    adopted._wish = None
    adopted.measure()
    adopted.add_gates()
    return adopted
