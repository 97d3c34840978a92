"""What every backbone family shares: adopting a timm model, sites, and the registry of families."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import timm
from timm.models import checkpoint, is_model, model_entrypoint
from torch import nn

from ltm.plan import (
    Grid,
    Kept,
    Plan,
    Site,
    check_names,
    check_ratio,
    grid_for_ratio,
    kept_grid,
    kept_tokens,
    tokens_for_ratio,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ltm.merge import Merge
    from ltm.methods import Method

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# what to keep at a place: its name, its grid (None when there is none any more), its tokens
Choose = Callable[[str, Grid | None, int], Kept | None]

DEFAULT_RATIO = 0.8  # the published command's


def adopt(cls: type[ModuleT], module: nn.Module, **attributes: object) -> ModuleT:
    """A `cls` that owns all that `module`, of a parent class, owned: children, parameters, names.

    timm builds and loads a network, a subclass of ours takes it over; keys of the state dict stay.
    """
    assert issubclass(cls, type(module)), f"{cls.__name__} cannot adopt {type(module).__name__}"
    new = cls.__new__(cls)
    nn.Module.__init__(new)
    new.__dict__.update(module.__dict__)
    for name, value in attributes.items():
        setattr(new, name, value)
    return new


class Merging:
    """One site in one forward pass: makes the merge, applies it, and remembers it.

    mass: [B, N], how many image tokens each token stands for; None for one each.
    pixels: tokens come as [B x pixels, N, D], and all pixels of a token share its fate.
    """

    merge: Merge

    def __init__(
        self, method: Method, site: Site, mass: Tensor | None = None, pixels: int = 1
    ) -> None:
        self.method = method
        self.site = site
        self.mass = mass
        self.pixels = pixels

    def __call__(self, tokens: Tensor, keys: Tensor | None = None) -> Tensor:
        """Decide on tokens [B x pixels, N, D] and merge them: [B x pixels, P, D]."""
        keys = self._mean(keys) if self.method.needs_keys and keys is not None else None
        self.merge = self.method(self._mean(tokens), self.site, self.mass, keys)
        return self.apply(tokens)

    def apply(self, tokens: Tensor) -> Tensor:
        """Merge other tokens of the same places in the same way."""
        if self.pixels == 1:
            return self.merge(tokens)
        _, N, D = tokens.shape
        wide = tokens.view(-1, self.pixels, N, D).transpose(1, 2).reshape(-1, N, self.pixels * D)
        merged = self.merge(wide).view(-1, self.site.slots, self.pixels, D)
        return merged.transpose(1, 2).reshape(-1, self.site.slots, D)

    def merged_mass(self) -> Tensor:
        """[B, P], after the merge."""
        return self.merge.sizes(self.mass).detach()

    def _mean(self, x: Tensor) -> Tensor:
        return x if self.pixels == 1 else x.view(-1, self.pixels, *x.shape[1:]).mean(1)


class MergingModel(nn.Module):
    """Mixin for the model of a family: it has a method, and sites where the method merges.

    default_plans: (timm name, image size) -> plan, when the user names none.
    needs_grid: what follows a merge needs tokens on a grid, of `smallest_grid` at least.
    """

    default_plans: ClassVar[Mapping[tuple[str, Grid], Plan]] = {}
    needs_grid: ClassVar[bool] = True
    smallest_grid: ClassVar[Grid] = (1, 1)

    timm_name: str
    image_size: Grid
    method: Method
    sites: dict[str, Site]

    if TYPE_CHECKING:
        # what a model has from timm

        def __getattr__(self, name: str) -> Any: ...
        def get_submodule(self, target: str) -> Any: ...

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        """timm's own model. ValueError when it cannot take the image size."""
        raise NotImplementedError

    @classmethod
    @abstractmethod
    def from_timm(cls, model: Any) -> MergingModel:
        """Adopt a timm model of this family. ValueError when it is a variant that cannot merge."""

    @abstractmethod
    def places(self) -> list[str]:
        """Names of all sites that a plan may use, in the order of the forward pass."""

    @abstractmethod
    def default_sites(self) -> list[str]:
        """Sites that share a compression ratio of a method that spends it once."""

    @abstractmethod
    def walk(self, choose: Choose) -> Iterator[Site]:
        """Follow the tokens through the network, asking at every place what to keep."""

    @abstractmethod
    def dims(self) -> list[int]:
        """Channels of the tokens at the places."""

    def attach(self, method: Method) -> None:
        """Give the model its method; call `set_compression` next."""
        self.method = method
        self.sites = {}

    def default_plan(self) -> float | Plan:
        """What to keep when the user names nothing: a ratio, or a plan."""
        return self.default_plans.get((self.timm_name, self.image_size), DEFAULT_RATIO)

    @property
    def plan(self) -> dict[str, Kept]:
        """What every site keeps, as `set_compression` takes it."""
        return {name: site.kept for name, site in self.sites.items()}

    def set_compression(self, to: float | Plan | None = None) -> None:
        """Set the kept fraction in (0, 1], or a plan, or None for the default; weights stay.

        ValueError, and no change, when the ratio or plan is not possible here.
        """
        if to is None:
            to = self.default_plan()
        choose = self._choose_plan(to) if isinstance(to, Mapping) else self._choose_ratio(to)
        self.sites = {site.name: site for site in self.walk(choose)}

    def merging(self, name: str) -> Merging | None:
        """What happens at a place in this forward pass: None where nothing merges."""
        site = self.sites.get(name)
        return None if site is None else Merging(self.method, site)

    def _choose_plan(self, plan: Plan) -> Choose:
        check_names(plan, self.places())

        def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:
            kept = plan.get(name)
            if kept is None:
                return None
            if isinstance(kept, int) and not self.needs_grid:
                return kept_tokens(name, kept, tokens)
            if grid is None:
                raise ValueError(
                    f"plan keeps grid {kept!r} at {name}, but a merge before it keeps no grid; "
                    f"allowed is a number from 1 to {tokens}"
                )
            return kept_grid(name, kept, grid, self.smallest_grid)

        return choose

    def _choose_ratio(self, ratio: float) -> Choose:
        ratio = check_ratio(ratio)
        places, defaults = self.places(), self.default_sites()
        first: list[int] = []

        def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:
            first.append(tokens)
            if self.method.spread == "even" and not self.needs_grid:
                # token counts fall linearly; their mean over the places is ratio x tokens
                place = places.index(name) + 1
                lost = 2 * (1 - ratio) * place / (len(places) + 1)
                return max(1, round(first[0] * (1 - lost)), -(-tokens // 2))
            if name not in defaults:
                return None
            if self.needs_grid or (self.method.keeps_grid and grid is not None):
                assert grid is not None
                return grid_for_ratio(ratio, grid, self.smallest_grid)
            return tokens_for_ratio(ratio, tokens)

        return choose


class StagedModel(MergingModel):
    """A network of stages, each a map of half the size, where merging makes maps smaller.

    Every stage has at most one site. Stages are timm's `stage_modules`, from a number on.
    """

    first_tap: ClassVar[int] = 0

    @abstractmethod
    def stage_modules(self) -> list[nn.Module]:
        """timm's stages in order; each is called as `run_stage` says."""

    @abstractmethod
    def run_stem(self, x: Tensor) -> Tensor:
        """Images to what the first stage takes."""

    @abstractmethod
    def run_stage(self, i: int, x: Tensor, merging: Merging | None) -> Tensor:
        """Stage i, which merges when `merging` is given."""

    @abstractmethod
    def run_end(self, x: Tensor) -> Tensor:
        """What the last stage gives to what `forward_head` takes."""

    @abstractmethod
    def site_of_stage(self, i: int) -> str:
        """The name of the place in stage i."""

    def check_images(self, x: Tensor) -> None:
        """ValueError for images of another size than the plan was made for."""
        if tuple(x.shape[-2:]) != self.image_size:
            raise ValueError(
                f"images are {x.shape[-2]} x {x.shape[-1]} pixels, the plan of this model is for "
                f"{self.image_size[0]} x {self.image_size[1]}: call set_input_size first"
            )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, 3, height, width] -> the last map, as timm lays it out."""
        self.check_images(x)
        x = self.run_stem(x)
        for i in range(len(self.stage_modules())):
            x = self._checkpointed(i, x, self.merging(self.site_of_stage(i)))
        return self.run_end(x)

    def _checkpointed(self, i: int, x: Tensor, merging: Merging | None) -> Tensor:
        if self.grad_checkpointing and self.training:
            out: Tensor = checkpoint(self.run_stage, i, x, merging)
            return out
        return self.run_stage(i, x, merging)


_FAMILIES: dict[str, type[MergingModel]] = {}
_ALIASES: dict[str, str] = {}


def register_family(
    *timm_modules: str, aliases: Mapping[str, str]
) -> Callable[[type[MergingModel]], type[MergingModel]]:
    """Register the model class for timm models defined in these modules, and short names."""

    def register(cls: type[MergingModel]) -> type[MergingModel]:
        for module in timm_modules:
            assert module not in _FAMILIES, f"family of {module} is registered twice"
            _FAMILIES[module] = cls
        _ALIASES.update(aliases)
        return cls

    return register


def list_backbones() -> list[str]:
    """Names of every timm model of a known family, for `create_model`; short names first."""
    known = [name for name in timm.list_models() if model_entrypoint(name).__module__ in _FAMILIES]
    return [*sorted(_ALIASES), *known]


def find_backbone(name: str) -> tuple[str, type[MergingModel]]:
    """timm's name, and the family, of a backbone by timm's, a short, or the paper's name.

    ValueError with the nearest names when it is unknown, or not of a family that can merge.
    """
    plain = str(name).removeprefix("ltm_")
    plain = _ALIASES.get(plain, plain)
    if not is_model(plain):
        near = get_close_matches(plain, list_backbones(), n=3)
        hint = f": did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"backbone is {name!r}, which timm does not have{hint}")
    module = model_entrypoint(plain).__module__
    if module not in _FAMILIES:
        families = ", ".join(sorted({m.rpartition(".")[2] for m in _FAMILIES}))
        raise ValueError(f"backbone is {name!r} of {module}, allowed families are {families}")
    return plain, _FAMILIES[module]
