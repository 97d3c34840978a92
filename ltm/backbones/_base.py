"""What every backbone family shares: adopting a timm model, sites, and where a ratio goes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import nn

from ltm.plan import (
    Grid,
    Kept,
    Place,
    Plan,
    Site,
    check_names,
    check_ratio,
    grid_for_ratio,
    kept_grid,
    kept_tokens,
    lost_by_place,
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
_LEAST = 1e-6  # a kept fraction above 0


def adopt(cls: type[ModuleT], module: nn.Module) -> ModuleT:
    """A `cls` that owns all that `module`, of a parent class, owned: children, parameters, names.

    timm builds and loads a network, a subclass of ours takes it over; keys of the state dict stay.
    """
    assert issubclass(cls, type(module)), f"{cls.__name__} cannot adopt {type(module).__name__}"
    new = cls.__new__(cls)
    nn.Module.__init__(new)
    new.__dict__.update(module.__dict__)
    return new


class Merging:
    """One site in one forward pass: makes the merge, applies it, and remembers it.

    mass: [B, N], how many image tokens each token stands for; None for one each.
    pixels: tokens come as [B x pixels, N, D], and all pixels of a token share its fate.
    prefix: how many tokens before the first one of the image pass by.
    """

    merge: Merge
    _each: Merge

    def __init__(
        self,
        method: Method,
        site: Site,
        mass: Tensor | None = None,
        pixels: int = 1,
        prefix: int = 0,
    ) -> None:
        self.method = method
        self.site = site
        self.mass = mass
        self.pixels = pixels
        self.prefix = prefix

    def __call__(
        self, tokens: Tensor, keys: Tensor | None = None, received: Tensor | None = None
    ) -> Tensor:
        """Decide on tokens [B x pixels, prefix + N, D] and merge them: [B x pixels, prefix + P, D].

        keys [B x pixels, prefix + N, d] and received [B x pixels, prefix + N] as `Method.forward`
        takes them.
        """
        keys = self._seen(keys) if self.method.needs_keys and keys is not None else None
        received = None if received is None else self._seen(received)
        self.merge = self.method(self._seen(tokens), self.site, self.mass, keys, received)
        self._each = self.merge if self.pixels == 1 else self.merge.repeated(self.pixels)
        return self.apply(tokens)

    def apply(self, tokens: Tensor) -> Tensor:
        """Merge other tokens of the same places in the same way."""
        return self._each.after(self.prefix, tokens)

    def unmerge(self, tokens: Tensor) -> Tensor:
        """[B x pixels, P, D] -> [B x pixels, N, D]."""
        return self._each.unmerge(tokens)

    def merged_mass(self) -> Tensor:
        """[B, P], after the merge."""
        sizes = self.merge.sizes(self.mass)
        return sizes if self.method.learns_mass else sizes.detach()

    def _seen(self, x: Tensor) -> Tensor:
        """What the method sees of tokens: those of the image, the mean over pixels."""
        x = x[:, self.prefix :]
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
    method_places: dict[str, Place]
    sites: dict[str, Site]
    _wish: float | Plan | None

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

    def places(self) -> list[str]:
        """Names of all sites that a plan may use, in the order of the forward pass."""
        return list(self.widths())

    @abstractmethod
    def default_sites(self) -> list[str]:
        """Sites that share a compression ratio of a method that spends it once."""

    @abstractmethod
    def walk(self, choose: Choose) -> Iterator[Site]:
        """Follow the tokens through the network, asking at every place what to keep."""

    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Every place, in the order of `places`, with the channels of its tokens."""

    def attach(self, build: Callable[[dict[str, Place]], Method], to: float | Plan | None) -> None:
        """Give the model a method, made for the places that it may use, and set the compression.

        Those are the places of the plan or the default ones, and all others of the same widths.
        """
        default = self.default_plan()
        names: set[str] = {*self.default_sites()}
        for plan in (to, default):
            if isinstance(plan, Mapping):
                check_names(plan, self.places())
                names |= plan.keys()
        widths = self.widths()
        used = {widths[name] for name in names}
        self.method_places = {
            name: Place(dim, self.needs_grid) for name, dim in widths.items() if dim in used
        }
        self.method = build(self.method_places)
        if self.method.removes is not None and (self.needs_grid or to is not None):
            raise ValueError(
                f"option 'r' says how many tokens merge in a block, but {self.timm_name} keeps a "
                f"grid: allowed are compression_ratio, plan and target_gmacs"
                if self.needs_grid
                else "option 'r' is given beside compression_ratio or plan, allowed is one of them"
            )
        self.set_compression(to)

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
        removes = self.method.removes if to is None else None
        wish = self.default_plan() if to is None else to
        if removes is not None:
            choose = self._choose_removals(removes)
        elif isinstance(wish, Mapping):
            choose = self._choose_plan(wish)
        else:
            choose = self._choose_ratio(wish)
        self.sites = {site.name: site for site in self.walk(choose)}
        self._wish = to

    def set_input_size(self, img_size: int | Grid, **options: Any) -> None:
        """Take images of another size from now on; compression is what was set, where it fits.

        img_size: pixels, one number or (height, width). options: as timm's model takes them.
        """
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.resize((height, width), **options)
        self.image_size = height, width
        self.set_compression(self._wish)

    @abstractmethod
    def resize(self, image_size: Grid, **options: Any) -> None:
        """Change what depends on the image size, except for the plan."""

    def merging(self, name: str) -> Merging | None:
        """What happens at a place in this forward pass: None where nothing merges."""
        site = self.sites.get(name)
        return None if site is None else Merging(self.method, site)

    def check_images(self, x: Tensor) -> None:
        """ValueError for images of another size than the plan was made for."""
        if tuple(x.shape[-2:]) != self.image_size:
            raise ValueError(
                f"images are {x.shape[-2]} x {x.shape[-1]} pixels, the plan of this model is for "
                f"{self.image_size[0]} x {self.image_size[1]}: call set_input_size first"
            )

    @property
    def _on_grid(self) -> bool:
        return self.needs_grid or self.method.keeps_grid

    @property
    def _spreads(self) -> bool:
        return self.method.spread != "once" and not self.needs_grid

    def _lost(self) -> list[float]:
        return lost_by_place(self.method.spread, len(self.places()))

    @property
    def least_ratio(self) -> float:
        """The smallest ratio that a plan can reach: one token at the end."""
        lost = self._lost()
        return 1 - sum(lost) / len(lost) if self._spreads else 0.0

    def _choose_removals(self, removes: Sequence[int]) -> Choose:
        places = self.places()

        def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:  # noqa: ARG001
            # a matching merges half of the tokens at most
            return max(tokens - removes[places.index(name)], tokens - tokens // 2)

        return choose

    def _choose_plan(self, plan: Plan) -> Choose:
        check_names(plan, self.method_places)

        def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:
            if name not in plan:
                return None
            kept = plan[name]
            if not self._on_grid and not isinstance(kept, tuple | list):
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
        if ratio < self.least_ratio:
            raise ValueError(
                f"compression_ratio is {ratio}, allowed for a method that merges in all "
                f"{len(self.places())} blocks is {self.least_ratio:.3f} to 1"
            )
        places, defaults, lost = self.places(), self.default_sites(), self._lost()
        first: list[tuple[int, Grid | None]] = []

        def choose(name: str, grid: Grid | None, tokens: int) -> Kept | None:
            first.append((tokens, grid))
            if self._spreads:
                # the mean of what is kept over the places is ratio x tokens
                kept = 1 - (1 - ratio) * lost[places.index(name)] * len(lost) / sum(lost)
                if not self._on_grid:
                    return max(1, round(first[0][0] * kept))
                assert grid is not None
                whole = first[0][1]
                assert whole is not None
                rows, columns = grid_for_ratio(max(kept, _LEAST), whole, self.smallest_grid)
                return min(rows, grid[0]), min(columns, grid[1])
            if name not in defaults:
                return None
            if self._on_grid:
                assert grid is not None
                return grid_for_ratio(ratio, grid, self.smallest_grid)
            return tokens_for_ratio(ratio, tokens)

        return choose
