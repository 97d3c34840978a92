"""What every backbone family shares: sites, what a method is offered, and where a ratio goes."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from timm.models import get_pretrained_cfg

from ltm._arguments import check_image_size
from ltm.backbones._choices import by_plan, by_ratio, by_removals, least_ratio, on_grid
from ltm.backbones._merging import Merging
from ltm.budget import fit_budget
from ltm.errors import FieldError, first_line
from ltm.flops import channels_of
from ltm.interfaces import NOTHING, OF_METHOD, Compressible, Evidence, Grid, Kept, Plan, SiteKind
from ltm.modes import unchanged_on_error
from ltm.plan import DEFAULT_RATIO, SCHEDULES, Removals, check_names, removals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from ltm.backbones._choices import Choose
    from ltm.interfaces import Method, Site, Spread

Wish = float | Plan | Removals | None


class MergingModel(Compressible):
    """Mixin for the model of a family: it has a method, and sites where the method merges.

    default_plans: (timm name, image size) -> plan, when the user names none.
    needs_grid: what follows a merge needs tokens on a grid, of `smallest_grid` at least.
    offers: what its blocks can show a method at a site.
    head_dim: channels of a head, where all blocks have the same.
    variants: classes that `from_timm` gives besides this one, of other classes of timm.
    """

    default_plans: ClassVar[Mapping[tuple[str, Grid], Plan]] = {}
    needs_grid: ClassVar[bool] = True
    smallest_grid: ClassVar[Grid] = (1, 1)
    offers: ClassVar[frozenset[Evidence]] = NOTHING
    variants: ClassVar[tuple[type[MergingModel], ...]] = ()

    head_dim: int | None = None
    timm_name: str
    image_size: Grid
    method: Method
    site_kinds: dict[str, SiteKind]
    sites: dict[str, Site]
    spread: Spread
    pool_by_size: bool = False
    _wish: Wish
    _asked: tuple[Wish, ...] = ()  # the wish that a learned plan took the place of

    if TYPE_CHECKING:
        # what a model has from timm

        def __getattr__(self, name: str) -> Any: ...
        def get_submodule(self, target: str) -> Any: ...

    @classmethod
    def build(cls, name: str, image_size: Grid | None, **options: Any) -> Any:
        """timm's own model. FieldError when it cannot take the image size."""
        raise NotImplementedError

    @classmethod
    def own_size(cls, name: str) -> int | None:
        """Pixels that timm's network of that name is built for when no size is given; None where
        timm does not know."""
        cfg = get_pretrained_cfg(name)
        return None if cfg is None else int(cfg.input_size[-1])

    @classmethod
    @abstractmethod
    def from_timm(cls, model: Any) -> MergingModel:
        """Adopt a timm model of this family. FieldError when it is a variant that cannot merge."""

    def site_names(self) -> list[str]:
        """Names of all sites that a plan may use, in the order of the forward pass."""
        return list(self.widths())

    @abstractmethod
    def default_sites(self) -> list[str]:
        """Sites that share a compression ratio of a method that spends it once."""

    @abstractmethod
    def walk(self, choose: Choose) -> Iterator[Site]:
        """Follow the tokens through the network; `choose` says at every site what to keep."""

    @abstractmethod
    def widths(self) -> dict[str, int]:
        """Every site, in the order of `site_names`, with the channels of its tokens."""

    def attach(
        self,
        build: Callable[[dict[str, SiteKind]], Method],
        to: Wish,
        *,
        r: float | Sequence[int] | None = None,
        schedule: str | None = None,
        pool_by_size: bool | None = False,
    ) -> None:
        """Give the model a method, made for the sites that it may use, and set the compression.

        Those are the sites of the plan or the default ones, and all others of the same widths.
        r: tokens that leave in every block, or a list with one number a block, or the part that
            leaves every block, in place of `to`.
        schedule: how r or a ratio is spent, see `ltm.plan.SCHEDULES`; None is the method's own way.
        pool_by_size: the head's mean of tokens weighs each by its size; None is where it can.

        FieldError for a method that needs what this network does not have.
        """
        default = self.default_plan()
        names: set[str] = {*self.default_sites()}
        for plan in (to, default):
            if isinstance(plan, Mapping):
                check_names(plan, self.site_names())
                names |= plan.keys()
        widths = self.widths()
        used = {widths[name] for name in names}
        self.site_kinds = {
            name: SiteKind(dim, self.needs_grid, self.head_dim)
            for name, dim in widths.items()
            if dim in used
        }
        like = next(self.parameters())
        self.method = build(self.site_kinds).to(like.device, like.dtype).train(self.training)
        self.check_method()
        self.pool_by_size = self._pooling(pool_by_size)
        self.spread = self._spread_as(schedule)
        self.set_compression(to, r=r)

    def _spread_as(self, schedule: str | None) -> Spread:
        if schedule is None:
            return self.method.spread
        for known in SCHEDULES:
            if known == schedule and not (self.needs_grid and known != "once"):
                return known
        choices = ["once"] if self.needs_grid else [*SCHEDULES]
        problem = f"is {schedule!r}, but {self.timm_name} keeps a grid" if self.needs_grid else ""
        raise FieldError("options.schedule", schedule, problem=problem, choices=choices)

    def check_method(self) -> None:
        """FieldError when the method needs what this network has not."""
        method, name = self.method, self.timm_name
        if method.grids == "refused" and self.needs_grid:
            raise FieldError(
                "method",
                method.name,
                f"a method that keeps a grid, for {name} needs one",
                f"is {method.name!r}, which keeps no grid: {method.why_no_grid}",
            )
        missing = method.needs - self.offers
        if missing:
            offered = ", ".join(sorted(self.offers)) or "nothing of its attention"
            raise FieldError(
                "method",
                method.name,
                f"a method that needs no more than {name} shows: {offered}",
                f"is {method.name!r}, which needs {', '.join(sorted(missing))}",
            )
        if method.varies and (self.needs_grid or method.keeps_grid):
            raise FieldError(
                "method",
                method.name,
                f"a method that keeps as many tokens of every image, for {name} needs a grid",
                f"is {method.name!r}, which keeps a number that differs",
            )

    def _pooling(self, by_size: bool | None) -> bool:
        """FieldError where the head shall weigh tokens by their size and cannot."""
        if by_size is not None and type(by_size) is not bool:
            raise FieldError("options.pool_by_size", by_size, "true or false")
        why = ""
        if not self.averages_tokens:
            why = f"the head of {self.timm_name} takes no mean of tokens that have sizes"
        elif not self.method.proportional:
            why = f"{self.method.name!r} does not weigh by size in attention either"
        if by_size and why:
            raise FieldError("options.pool_by_size", by_size, "false", f"is true, but {why}")
        return not why if by_size is None else by_size

    @property
    def averages_tokens(self) -> bool:
        """The head takes the mean of tokens whose sizes are known."""
        return False

    def default_plan(self) -> float | Plan:
        """What to keep when the user names nothing: a ratio, or a plan."""
        return self.default_plans.get((self.timm_name, self.image_size), DEFAULT_RATIO)

    @property
    def plan(self) -> dict[str, Kept]:
        """What every site keeps, as `set_compression` takes it."""
        return {name: site.kept for name, site in self.sites.items()}

    @property
    def kept_tokens(self) -> float | None:
        return math.prod(site.slots / site.tokens for site in self.sites.values())

    def set_compression(
        self,
        to: Wish = None,
        *,
        r: float | Sequence[int] | None = None,
        gmacs: float | None = None,
    ) -> None:
        """Set the kept fraction in (0, 1], or a plan, or None for the default; weights stay.

        r: tokens that leave in every block, one number a block, or the part that leaves every
            block, in the place of those.
        gmacs: a budget in 1e9 MACs an image, in the place of those; the ratio is taken that comes
            closest from below.

        FieldError, and no change, when the compression is not possible here.
        """
        if gmacs is not None:
            if to is not None or r is not None:
                beside = "is given beside another compression"
                raise FieldError("gmacs", gmacs, "one of them", beside)
            fit_budget(self, gmacs)
            return
        if r is not None:
            to = self._removals(r, to)
        wish = self.default_plan() if to is None else to
        if isinstance(wish, Removals):
            choose = by_removals(self, wish)
        elif isinstance(wish, Mapping):
            choose = by_plan(self, wish)
        else:
            choose = by_ratio(self, wish)
        sites = {site.name: site for site in self.walk(choose)}
        first = self.site_names()[0]
        if first in sites and "received_before" in self.method.needs:
            problem = f"merges at {first}, before which there is no attention to look at"
            raise FieldError("plan", [*sites], "every site but the first", problem)
        self.method.prepare(sites, next(self.parameters()))
        self.sites = sites
        self._wish = to

    @contextmanager
    def reduced_by(self, r: float | Sequence[int]) -> Iterator[None]:
        """In the block the compression is another one, as `set_compression` takes r.

        FieldError when it is not possible here.
        """
        sites, wish = self.sites, self._wish
        self.set_compression(r=r)
        try:
            yield
        finally:
            self.sites, self._wish = sites, wish

    def _removals(self, r: float | Sequence[int], to: Wish) -> Removals:
        if to is not None:
            raise FieldError("options.r", r, "one of them", "is given beside another compression")
        if on_grid(self):
            raise FieldError(
                "options.r",
                r,
                "compression_ratio, plan or target_gmacs",
                "says how many tokens leave in a block, but a grid stays here",
            )
        return removals(r, self.spread, len(self.site_names()), self.method.skips)

    @property
    def compression(self) -> Wish:
        return self._wish

    @property
    def least_ratio(self) -> float:
        """The smallest ratio that a plan can reach: one token at the end."""
        return least_ratio(self)

    def before_load(self, state: Mapping[str, Tensor]) -> None:
        own = {key: x for key, x in state.items() if key.startswith(OF_METHOD)}
        self.method.check_weights({key.removeprefix(OF_METHOD): x for key, x in own.items()})
        plan = self.method.learned_plan(state)
        if plan is not None:
            self._asked = (self._wish,)
            self.set_compression(plan)

    def before_finetuning(self) -> None:
        self.method.before_finetuning()
        if self._asked:
            self.set_compression(*self._asked)
            self._asked = ()

    def set_input_size(self, img_size: int | Grid | None = None, **options: Any) -> None:
        """Take images of another size from now on; compression is what was set, where it fits.

        img_size: pixels, one number or (height, width); None keeps it. options: as timm's model
            takes them, such as patch_size.

        FieldError, and no change, when the size, or the compression at it, is not possible.
        """
        height, width = check_image_size(self.image_size if img_size is None else img_size)
        try:
            with unchanged_on_error(self):
                self.resize((height, width), **options)
                self.image_size = height, width
                self.set_compression(self._wish)
        except (ValueError, AssertionError, TypeError, RuntimeError) as error:
            stays = f"{self.image_size[0]} x {self.image_size[1]}"
            raise FieldError(
                "image_size",
                (height, width),
                problem=f"cannot become {height} x {width} and stays {stays}: {first_line(error)}",
            ) from error

    @abstractmethod
    def resize(self, image_size: Grid, **options: Any) -> None:
        """Change what depends on the image size, except for the plan."""

    def merging(self, name: str) -> Merging | None:
        """What happens at a site in this forward pass: None where nothing merges."""
        site = self.sites.get(name)
        return None if site is None else Merging(self.method, site, offers=self.offers)

    def check_images(self, x: Tensor) -> None:
        """FieldError for what is no batch of images, or of another size than the plan is for."""
        channels = channels_of(self)
        if x.ndim != 4 or x.shape[1] != channels:
            height, width = self.image_size
            allowed = f"a batch of them, [B, {channels}, {height}, {width}]"
            shape = [*x.shape]
            raise FieldError("images", tuple(shape), allowed, f"are a tensor {shape}")
        if tuple(x.shape[-2:]) != self.image_size:
            raise FieldError(
                "images",
                tuple(x.shape),
                f"{self.image_size[0]} x {self.image_size[1]}, which the plan of this model is "
                f"for; set_input_size changes it",
                f"are {x.shape[-2]} x {x.shape[-1]} pixels",
            )
