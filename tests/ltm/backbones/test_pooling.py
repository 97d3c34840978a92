"""What methods drop in training no longer counts, however the network pools its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ltm
from ltm.errors import FieldError
from ltm.interfaces import Method, SiteInput
from ltm.merge import Merge
from ltm.methods import build_method

from . import toys
from .conftest import images, with_method

if TYPE_CHECKING:
    from torch import Tensor

TINY = "vit_nano_patch4_32"
POOLS: dict[str, dict[str, Any]] = {
    "token": {"global_pool": "token", "class_token": True},
    "avg": {"global_pool": "avg"},
    "avg, with the class token": {
        "global_pool": "avg",
        "class_token": True,
        "pool_include_prefix": True,
    },
    "avg, past the class token": {"global_pool": "avg", "class_token": True},
    "max": {"global_pool": "max", "class_token": True},
    "max, normed before": {"global_pool": "max", "fc_norm": False},
    "avgmax": {"global_pool": "avgmax"},
    "avgmax, with registers": {
        "global_pool": "avgmax",
        "reg_tokens": 2,
        "pool_include_prefix": True,
    },
    "map": {"global_pool": "map"},
    "map, past the class token": {"global_pool": "map", "class_token": True},
}


@dataclass(frozen=True)
class Removed(Merge):
    """What a merge in training decided, with the tokens that it drops really removed."""

    soft: Merge
    came: Tensor
    """Numbers of those that arrive."""
    left: Tensor
    """Numbers of the slots that stay."""

    keeps_mass = convex = False

    @property
    def slots(self) -> int:  # type: ignore[override]
        return len(self.left)

    def __call__(self, x: Tensor) -> Tensor:
        whole = x.new_zeros(1, _tokens(self.soft), x.shape[-1])
        whole[:, self.came] = x
        return self.soft(whole)[:, self.left]

    def sizes(self, mass: Tensor | None = None) -> Tensor:  # noqa: ARG002
        return self.soft.sizes()[:, self.left]

    def unmerge(self, y: Tensor) -> Tensor:
        raise NotImplementedError

    def weights(self) -> None:
        raise NotImplementedError

    def repeated(self, times: int) -> Merge:
        raise NotImplementedError


def _tokens(merge: Merge) -> int:
    weights = merge.weights()
    assert weights is not None
    return weights.shape[1]


class Replayed(Method):
    """Decides for one image what another method decided in training."""

    def __init__(self, merges: dict[str, Merge], method: Method) -> None:
        super().__init__()
        self.proportional, self.acts_on = method.proportional, method.acts_on
        self.removed: dict[str, Removed] = {}
        came = torch.arange(_tokens(next(iter(merges.values()))))
        for name, soft in merges.items():
            left = (soft.sizes()[0] > 0.5).nonzero().flatten()
            self.removed[name] = Removed(soft, came, left)
            came = left

    def forward(self, given: SiteInput) -> Merge:
        return self.removed[given.site.name]


def network(method: str, pool: str) -> Any:
    options = {"class_token": False, "pos_drop_rate": 0.0} | POOLS[pool]
    model = with_method(TINY, lambda sites: build_method(method, sites, {}), 0.6, **options)
    for name, parameter in model.method.named_parameters():
        if name.endswith("prune.theta"):
            torch.nn.init.constant_(parameter, 1 / 70)
        if name.endswith("merge.theta"):
            torch.nn.init.constant_(parameter, 0.5)
    return model.train()


def trained(model: Any, x: Tensor) -> tuple[Tensor, dict[str, Merge]]:
    """Logits in training, and what was decided at each site."""
    merges: dict[str, Merge] = {}

    def note(_: Any, given: tuple[SiteInput], merge: Merge) -> None:
        merges[given[0].site.name] = merge

    hook = model.method.register_forward_hook(note)
    torch.manual_seed(1)
    logits = model(x)
    hook.remove()
    return logits, merges


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("method", ["ltmp", "spvit", "dynamicvit"])
def test_logits_in_training_are_those_without_the_dropped_tokens(method: str, pool: str) -> None:
    model, x = network(method, pool), images(32, 1)
    logits, merges = trained(model, x)
    assert any((merge.sizes() < 0.5).any() for merge in merges.values())
    model.method = Replayed(merges, model.method)
    torch.testing.assert_close(model(x), logits, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("pool", ["avg", "avgmax", "map"])
def test_pooling_tells_a_method_what_its_decisions_cost(pool: str) -> None:
    """At the last block no attention follows: pooling alone knows of a decision."""
    model = network("ltmp", pool)
    logits, _ = trained(model, images(32))
    logits.square().sum().backward()
    last = model.method.blocks[-1].prune.theta.grad
    assert last is not None
    assert last.abs() > 0


def test_importance_in_training_is_that_among_the_tokens_that_are_left() -> None:
    """A token that was dropped attends to nothing any more."""
    model, x = network("ltmp", "avg"), images(32, 1)
    seen: list[SiteInput] = []
    hook = model.method.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    _, merges = trained(model, x)
    hook.remove()
    replayed = Replayed(merges, model.method)
    replayed.wants, model.method = model.method.wants, replayed
    again: list[SiteInput] = []
    replayed.register_forward_pre_hook(lambda _, given: again.append(given[0]))
    model(x)
    for one, other in zip(seen[1:], again[1:], strict=True):
        came = replayed.removed[one.site.name].came
        assert one.received is not None
        assert other.received is not None
        torch.testing.assert_close(one.received[:, came], other.received, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("pool", ["avg", "avg, with the class token", "avg, past the class token"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("method", ["tome", "dtem"])
def test_a_mean_by_size_weighs_each_slot_by_what_it_stands_for(
    method: str, training: bool, pool: str
) -> None:
    options = {"class_token": False} | POOLS[pool]
    model = with_method(TINY, lambda sites: build_method(method, sites, {}), 0.5, **options)
    model, x = model.train(training), images(32)
    model.pool_by_size = True
    merges: list[Merge] = []
    model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))
    normed: list[Tensor] = []
    hook = model.norm.register_forward_hook(lambda _m, _a, y: normed.append(y))
    with torch.no_grad():
        pooled = model.pool(model.forward_features(x))
        hook.remove()
        prefix, tokens = normed[0].tensor_split([model.num_prefix_tokens], 1)
        mass = None
        for merge in merges:
            mass = merge.sizes(mass)
        assert mass is not None
        total, count = (tokens * mass[..., None]).sum(1), mass.sum(1, keepdim=True)
        if model.pool_include_prefix:
            total, count = total + prefix.sum(1), count + prefix.shape[1]
        model.pool_by_size = False
        plain = model.pool(model.forward_features(x))
    torch.testing.assert_close(pooled, total / count, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(pooled, plain, atol=1e-3)


def test_where_sizes_have_no_part_in_the_head_they_are_refused() -> None:
    def create(backbone: str, method: str, **options: Any) -> Any:
        return ltm.create_model(backbone, method, pool_by_size=True, **options)

    assert create(TINY, "tome").pool_by_size
    assert create(TINY, "tome", compression_ratio=1.0)(images(32)).isfinite().all()
    for backbone, method, why in (
        ("vit_tiny_patch16_224", "tome", "takes no mean"),
        ("swin_nano_patch2_window4_32", "tome", "takes no mean"),
        (TINY, "pitome", "does not weigh by size"),
    ):
        with pytest.raises(FieldError, match=why) as caught:
            create(backbone, method)
        assert caught.value.field == "options.pool_by_size"
        assert not ltm.create_model(backbone, method, pool_by_size=None).pool_by_size
        assert not ltm.patch(ltm.create_model(backbone, "none"), method).pool_by_size
    assert not ltm.create_model(TINY, "tome").pool_by_size
    trained = ltm.create_model(TINY, "none")
    assert ltm.patch(trained, "tome").pool_by_size, "the head expects the mean of all tokens"
    assert not ltm.patch(trained, "tome", pool_by_size=False).pool_by_size
    with pytest.raises(FieldError, match="true or false"):
        ltm.create_model(TINY, "tome", pool_by_size="yes")


@pytest.mark.parametrize("pool", ["max", "avgmax", "map"])
def test_padding_does_not_count(pool: str) -> None:
    model = with_method(TINY, toys.Varies, 0.5, **{"class_token": False} | POOLS[pool])
    x = images(32, 4)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["ltmp", "spvit", "dynamicvit", "dtem"])
def test_pooling_that_takes_in_what_is_dropped_in_training_is_refused(method: str) -> None:
    with pytest.raises(FieldError, match=r"the pooling 'prr' .* takes in all") as caught:
        with_method(
            TINY,
            lambda sites: build_method(method, sites, {}),
            0.5,
            global_pool="prr",
            class_token=True,
        )
    assert caught.value.field == "method"
