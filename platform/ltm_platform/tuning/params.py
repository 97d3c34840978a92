"""Parameters of a sweep (``--param``): fields of a job, and the values that trials may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from ltm.errors import named, quoted
from ltm_platform.errors import UserError, nearest, typed
from ltm_platform.job import BUDGETS, JobSpec
from ltm_platform.job.shorten import EPOCHS, FROZEN, WARMUP, shortened
from ltm_platform.job.yaml_text import parse_yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Value = str | int | float | bool | None
Sites = tuple[list[str], list[str]]
"""All places where a network may merge, and those where it does by default."""

KEEP = "keep_ratio"
"""``keep_ratio.SITE``: the kept fraction of the tokens that arrive at a site."""
FOLD = "data.fold"
"""Trials that differ in it alone are one: their scores are averaged."""
EXAMPLE = "recipe.lr=log:1e-5:1e-2"
_FORMS = "LOW:HIGH, log:LOW:HIGH, choice:A,B or grid:A,B"


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers from ``low`` to ``high``, both included."""

    low: float
    high: float
    log: bool = False
    """Whether values are uniform in their logarithm."""
    integer: bool = False

    @property
    def ends(self) -> tuple[Value, ...]:
        return (self.low, self.high)

    def __str__(self) -> str:
        return f"{'log:' if self.log else ''}{self.low:g}:{self.high:g}"


@dataclass(frozen=True, slots=True)
class Values:
    """A few values; with ``grid`` every one of them is tried."""

    values: tuple[Value, ...]
    grid: bool = False

    @property
    def ends(self) -> tuple[Value, ...]:
        return self.values

    def __str__(self) -> str:
        return f"{'grid' if self.grid else 'choice'}:{','.join(map(str, self.values))}"


@dataclass(frozen=True, slots=True)
class Param:
    """A field that varies."""

    field: str
    domain: Range | Values


@dataclass(frozen=True, slots=True)
class _Known:
    field: str
    default: Callable[[JobSpec], str]


def _around_lr(job: JobSpec) -> str:
    """A factor of ten in both directions."""
    return f"log:{job.recipe.lr / 10:g}:{min(job.recipe.lr * 10, 10):g}"


KNOWN = {
    "compression_ratio": _Known("model.compression_ratio", lambda _: "0.4:1.0"),
    "ib_weight": _Known("recipe.ib.weight", lambda _: "log:0.01:1.0"),
    "ib_warmup": _Known("recipe.ib.warmup", lambda _: "0.0:0.6"),
    "ib_beta": _Known("recipe.ib.beta", lambda _: "log:1:50"),
    "lr": _Known("recipe.lr", _around_lr),
    "weight_decay": _Known("recipe.weight_decay", lambda _: "log:1e-3:0.3"),
    "drop_path": _Known("model.drop_path", lambda _: "0.0:0.3"),
}
KEEP_DEFAULT = "0.4:1.0"


def read_params(
    texts: Iterable[str], job: JobSpec, sites: Callable[[], Sites]
) -> tuple[Param, ...]:
    """The parameters of ``--param``, each checked against the job.

    ``sites`` builds the network to see them, and is called only for keep ratios.

    Raises:
        UserError: an invalid name, form or value.
    """
    found: dict[str, Param] = {}
    for text in texts:
        for param in _read(text, job, sites):
            if param.field in found:
                raise UserError(f"--param {typed(text)}: {named(param.field)} is given twice")
            found[param.field] = param
    if not found:
        raise UserError(
            f"there is no --param: name what is to be tuned, one of "
            f"{', '.join([*KNOWN, 'keep_ratios'])}, or any field as --param {EXAMPLE}"
        )
    compressing = [f for f in found if f == "model.compression_ratio" or f.startswith(KEEP)]
    if "model.compression_ratio" in compressing and len(compressing) > 1:
        raise UserError(
            f"--param compression_ratio and {compressing[1]} cannot go together: "
            f"one ratio decides for all sites"
        )
    return tuple(found.values())


def _read(text: str, job: JobSpec, sites: Callable[[], Sites]) -> list[Param]:
    name, equals, form = (part.strip() for part in text.partition("="))
    text = typed(text)
    if name == "keep_ratios" or name.startswith(f"{KEEP}."):
        return _read_keep(text, name, form, sites)
    field, default = _field(text, name, job)
    if equals:
        domain = _domain(text, form)
    elif default:
        domain = _domain(text, default)
    else:
        raise UserError(
            f"--param {text}: there is no range known for {field}: write {field}=..., as {_FORMS}"
        )
    return [Param(field, _checked(text, field, domain, job))]


def _read_keep(text: str, name: str, form: str, sites: Callable[[], Sites]) -> list[Param]:
    places, default = sites()
    if name != "keep_ratios":
        site = name.removeprefix(f"{KEEP}.")
        if site not in places:
            raise UserError(
                f"--param {text}: {quoted(site)} is no site of this network{nearest(site, places)} "
                f"(allowed: {', '.join(places)})"
            )
        default = [site]
    domain = _domain(text, form or KEEP_DEFAULT)
    for value in domain.ends:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
            raise UserError(
                f"--param {text}: a keep ratio is {quoted(value)}, "
                f"but must be greater than 0 and at most 1"
            )
    return [Param(f"{KEEP}.{site}", domain) for site in default]


def _field(text: str, name: str, job: JobSpec) -> tuple[str, str | None]:
    """The job's field that is meant, and its default range if one is known."""
    if name in KNOWN:
        return KNOWN[name].field, KNOWN[name].default(job)
    for known in KNOWN.values():
        if name == known.field:
            return name, known.default(job)
    fields = [field for field in job.flat() if not field.startswith(("cluster.", "tracking."))]
    if name in fields or name.startswith("model.options."):
        return name, None
    allowed = [*KNOWN, "keep_ratios", *fields]
    near = nearest(name, allowed) or nearest(
        name.rpartition(".")[2], [field.rpartition(".")[2] for field in fields]
    )
    raise UserError(
        f"--param {text}: {quoted(name)} is nothing that can be tuned{near} "
        f"(known: {', '.join([*KNOWN, 'keep_ratios'])}, or any field such as {EXAMPLE})"
    )


def _domain(text: str, form: str) -> Range | Values:
    kind, colon, rest = form.partition(":")
    if colon and kind in ("choice", "grid"):
        values = tuple(_scalar(text, word) for word in rest.split(","))
        if len(set(map(repr, values))) < len(values):
            raise UserError(f"--param {text}: a value is given twice")
        return Values(values, grid=kind == "grid")
    numbers = [_scalar(text, word) for word in form.removeprefix("log:").split(":")]
    if len(numbers) != 2 or not all(_is_number(number) for number in numbers):
        raise UserError(f"--param {text}: {quoted(form)} is no range: write {_FORMS}")
    low, high = (number for number in numbers if isinstance(number, int | float))
    log = kind == "log"
    if not low < high:
        given = f"from {quoted(low)} to {quoted(high)}"
        raise UserError(f"--param {text}: a range goes from low to high, not {given}")
    if log and low <= 0:
        raise UserError(f"--param {text}: a log range begins above 0, not at {quoted(low)}")
    return Range(low, high, log=log)


def _scalar(text: str, word: str) -> Value:
    try:
        value, layer = parse_yaml(word.strip(), lambda _: f"--param {text}")
    except UserError as error:
        raise UserError(f"--param {text}: {error}") from None
    if layer.problems or isinstance(value, dict | list) or word.strip() == "":
        raise UserError(f"--param {text}: {quoted(word)} is not one value: write {_FORMS}")
    scalar: Value = value
    return scalar


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked(text: str, field: str, domain: Range | Values, job: JobSpec) -> Range | Values:
    """The job takes every end of the domain; of a field that takes no fractions, whole numbers."""
    if isinstance(domain, Range) and isinstance(domain.low, int) and isinstance(domain.high, int):
        try:
            with_values(job, {field: domain.low + 0.5}, f"--param {text}")
        except UserError:
            domain = Range(domain.low, domain.high, domain.log, integer=True)
    for value in domain.ends:
        with_values(job, {field: value}, f"--param {text}")
    return domain


def with_values(job: JobSpec, values: Mapping[str, Any], source: str) -> JobSpec:
    """The job with these fields, and what must follow: one setting of compression, min_lr below lr,
    a warm-up within the epochs.

    ``source`` is named in errors as their place. Keep ratios are left to `with_keep_ratios`.

    Raises:
        UserError: the job cannot have such a value.
    """
    fields = {field: value for field, value in values.items() if not field.startswith(f"{KEEP}.")}
    nested = job.to_dict()
    lr = fields.get("recipe.lr")
    if _is_number(lr) and "recipe.min_lr" not in fields:
        # The rate falls to the same share of where it begins.
        fields["recipe.min_lr"] = lr * job.recipe.min_lr / job.recipe.lr
    lasts = {WARMUP: job.recipe.warmup_epochs, FROZEN: job.recipe.backbone.frozen_epochs}
    for phase in lasts.keys() - fields.keys():
        cut = shortened(phase, lasts[phase], job.recipe.epochs, fields.get(EPOCHS))
        fields |= {} if cut is None else {phase: cut}
    if any(fields.get(budget) is not None for budget in BUDGETS):
        fields = dict.fromkeys(BUDGETS) | fields
    for field, value in fields.items():
        *sections, name = field.split(".")
        node = nested
        for section in sections:
            node = node[section]
        node[name] = value
    return JobSpec.from_dict(nested, source)


def grid_size(params: Sequence[Param]) -> int:
    """How many combinations the grids have."""
    size = 1
    for param in params:
        if isinstance(param.domain, Values) and param.domain.grid:
            size *= len(param.domain.values)
    return size
