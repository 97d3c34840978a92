"""Every kind of merge: convex combinations, mass kept, compiled form equal to the eager one."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltm.interfaces import Site, SiteInput
from ltm.merge import (
    Assigned,
    Chained,
    Local,
    Masked,
    MaxMagnitude,
    Merge,
    NormKept,
    Selected,
    Soft,
    Transformed,
    Weighted,
    WithAttention,
    WithPackage,
)
from ltm.methods.ltm import window_anchors

from .declared import assert_declared

B, N, P, D = 3, 36, 20, 8


def assigned(seed: int = 0, tokens: int = N, slots: int = P) -> Assigned:
    torch.manual_seed(seed)
    slot = torch.cat(
        [torch.arange(slots).expand(B, -1), torch.randint(slots, (B, tokens - slots))], 1
    )
    slot = slot.gather(1, torch.rand(B, tokens).argsort(1))
    return Assigned.normalised(slot, torch.rand(B, tokens) + 0.1, slots)


def local() -> Local:
    torch.manual_seed(0)
    index, start = window_anchors((6, 6), (5, 4), torch.device("cpu"))
    return Local(index, (start + torch.randn(B, *start.shape)).softmax(-1), N)


def weighted() -> Weighted:
    """Dense means."""
    torch.manual_seed(0)
    return Weighted(torch.randn(B, N, P).softmax(1), convex=True, keeps_mass=True)


def sums() -> Weighted:
    torch.manual_seed(0)
    return Weighted(torch.randn(B, N, P), keeps_mass=True)


def selected() -> Selected:
    torch.manual_seed(0)
    return Selected(torch.rand(B, N).argsort(1)[:, :P], N)


def padded() -> Selected:
    whole = selected()
    count = torch.tensor([[P], [1], [P // 2]])
    return Selected(whole.index, N, torch.arange(P) < count)


def soft() -> Soft:
    torch.manual_seed(0)
    return Soft(torch.rand(B, N), 0.1 * torch.rand(B, N, N), torch.rand(B, N) + 0.1)


def masked() -> Masked:
    torch.manual_seed(0)
    return Masked((torch.rand(B, N) > 0.5).float().clamp_min(1e-6))


def with_package() -> WithPackage:
    merge = selected()
    torch.manual_seed(1)
    return WithPackage(merge, torch.rand(B, N).scatter(1, merge.index, 0.0))


def transformed() -> Transformed:
    return Transformed(assigned(), lambda x: 2 * x + 1)


def with_attention() -> WithAttention:
    return WithAttention(assigned(), torch.rand(B, 2, P, P).softmax(-1))


def chained() -> Chained:
    """Merged, put in another order, and cut."""
    slots = torch.rand(B, P).argsort(1)[:, : P - 2]
    return Chained(assigned(), Selected(slots, P))


def chained_padded() -> Chained:
    return Chained(Selected(torch.rand(B, N).argsort(1), N), padded())


MERGES = {"assigned": assigned, "local": local}
KINDS = {
    **MERGES,
    "norm_kept": lambda: NormKept(*_fields(assigned())),
    "max_magnitude": lambda: MaxMagnitude(*_fields(assigned())),
    "weighted": weighted,
    "sums": sums,
    "selected": selected,
    "padded": padded,
    "soft": soft,
    "transformed": transformed,
    "with_attention": with_attention,
    "chained": chained,
    "chained_padded": chained_padded,
    "masked": masked,
    "with_package": with_package,
    "packed_in_training": lambda: WithPackage(masked(), torch.rand(B, N)),
}


def _fields(merge: Assigned) -> tuple[torch.Tensor, torch.Tensor, int]:
    return merge.slot, merge.weight, merge.slots


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_what_it_says_it_is(kind: str) -> None:
    merge = KINDS[kind]()
    site = Site("blocks.0", D, (6, 6), N, P)
    x, mass = torch.randn(B, N, D), torch.rand(B, N) + 0.5
    for given in (SiteInput(x, site), SiteInput(x, site, mass)):
        assert_declared(given, merge)


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_merges_of_every_kind_are_the_same_for_each_row(kind: str) -> None:
    merge = KINDS[kind]()
    x = torch.randn(B, N, D)
    twice = merge.repeated(2)
    assert type(twice) is type(merge)
    torch.testing.assert_close(twice(x.repeat_interleave(2, 0)), merge(x).repeat_interleave(2, 0))
    for name in ("present", "attention"):
        own, repeated = getattr(merge, name), getattr(twice, name)
        assert (own is None) == (repeated is None)
        assert own is None or torch.equal(repeated, own.repeat_interleave(2, 0))


def in_float64(merge: Merge) -> Merge:
    """The same merge, every tensor of floats in float64."""
    own = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in vars(merge).items()
    }
    own |= {name: in_float64(v) for name, v in own.items() if isinstance(v, Merge)}
    return replace(merge, **own)  # type: ignore[type-var]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_merges_in_float64_what_comes_in_float64(kind: str) -> None:
    merge = in_float64(KINDS[kind]())
    torch.manual_seed(0)
    x = torch.randn(B, N, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(merge, x)
    y = torch.randn(B, merge.slots, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(merge.unmerge, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_merges_half_precision_in_float32(kind: str, dtype: torch.dtype) -> None:
    merge = KINDS[kind]()
    x = torch.randn(B, N, D).to(dtype)
    merged = merge(x)
    assert merged.dtype == dtype
    torch.testing.assert_close(merged, merge(x.float()).to(dtype), rtol=1e-2, atol=1e-2)


def test_amounts_are_carried_as_sizes_are() -> None:
    amount = torch.rand(B, N)
    merge = selected()
    torch.testing.assert_close(merge.carried(amount), amount.gather(1, merge.index))
    torch.testing.assert_close(assigned().carried(amount), assigned().sizes(amount))
    torch.testing.assert_close(soft().carried(amount), amount)


def test_dropped_tokens_come_back_as_0() -> None:
    for merge in (selected(), padded()):
        back = merge.unmerge(merge(torch.ones(B, N, D)))
        kept = merge.weights().sum(2)
        assert torch.equal(back, kept[..., None].expand(-1, -1, D))
        assert (merge.present is None) == bool((kept.sum(1) == P).all())


@pytest.fixture(params=MERGES)
def merge(request: pytest.FixtureRequest) -> Merge:
    return MERGES[request.param]()


def test_merged_tokens_are_convex_combinations(merge: Merge) -> None:
    G = merge.weights()
    x = torch.randn(B, N, D)
    assert G.shape == (B, N, merge.slots)
    assert (G >= 0).all()
    torch.testing.assert_close(G.sum(1), torch.ones(B, merge.slots))
    torch.testing.assert_close(merge(x), G.transpose(1, 2) @ x)


def test_sizes_keep_the_mass(merge: Merge) -> None:
    mass = torch.rand(B, N) + 0.5
    assert (merge.sizes() > 0).all()
    torch.testing.assert_close(merge.sizes().sum(1), torch.full((B,), float(N)))
    torch.testing.assert_close(merge.sizes(mass).sum(1), mass.sum(1))


def test_unmerge_gives_each_source_the_slots_that_hold_it(merge: Merge) -> None:
    G = merge.weights()
    shares = G / G.sum(2, keepdim=True)
    y = torch.randn(B, merge.slots, D)
    if isinstance(merge, Local):
        torch.testing.assert_close(merge.unmerge(y), shares @ y)
    else:  # one slot a token
        torch.testing.assert_close(merge.unmerge(y), (G > 0).float() @ y)


@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("kind", [Assigned, NormKept, MaxMagnitude, Local])
def test_the_first_tokens_stay_and_the_others_merge(kind: type[Merge], first: int) -> None:
    whole = assigned()
    merge = local() if kind is Local else kind(whole.slot, whole.weight, P)
    x = torch.randn(B, first + N, D)
    merged = merge.after(first, x)
    assert torch.equal(merged[:, :first], x[:, :first])
    torch.testing.assert_close(merged[:, first:], merge(x[:, first:]))


def test_gradients_reach_tokens_and_weights() -> None:
    slot = assigned().slot
    weight = torch.rand(B, N, dtype=torch.float64).add(0.1).requires_grad_()
    x = torch.randn(B, N, D, requires_grad=True)
    Assigned.normalised(slot, weight.float(), P)(x).square().sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert x.grad.abs().sum() > 0
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["assigned", "local"])
def test_exported_form_equals_the_eager_one(kind: str) -> None:
    merge = MERGES[kind]()
    tensors = [merge.index if isinstance(merge, Local) else merge.slot, merge.weight]  # type: ignore[attr-defined]

    class Merged(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, which: torch.Tensor, weight: torch.Tensor
        ) -> torch.Tensor:
            return (Local(which, weight, N) if kind == "local" else Assigned(which, weight, P))(x)

    x = torch.randn(B, N, D)
    exported = torch.export.export(Merged(), (x, *tensors)).module()
    torch.testing.assert_close(exported(x, *tensors), merge(x))


def test_half_precision_tokens_come_back_in_half_precision(merge: Merge) -> None:
    x = torch.randn(B, N, D)
    assert merge(x.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(merge(x.bfloat16()).float(), merge(x), atol=0.03, rtol=0.03)


@pytest.mark.parametrize(
    ("grid", "kept"),
    [((14, 14), (12, 13)), ((8, 8), (2, 2)), ((7, 7), (6, 6)), ((5, 9), (1, 4)), ((2, 3), (2, 2))],
)
def test_window_anchors_leave_no_token_out(grid: tuple[int, int], kept: tuple[int, int]) -> None:
    index, start = window_anchors(grid, kept, torch.device("cpu"))
    assert set(index.flatten().tolist()) == set(range(grid[0] * grid[1]))
    assert all(len(set(row)) == len(row) for row in index.tolist())
    nearest = index.gather(1, start.argmax(1, keepdim=True)).flatten()
    assert (nearest.diff() > 0).all(), "anchors are not in the order of the grid"


def test_what_is_kept_is_known_by_its_place() -> None:
    places = torch.arange(N).expand(B, -1)
    chosen = selected()
    assert (chosen.kept(places) == chosen.index).all()
    assert (padded().kept(places)[1, 1:] == -1).all()
    left = masked().kept(places)
    assert ((left == places) == (masked().mass == 1)).all()
    package = with_package()
    known = package.kept(places)
    assert known is not None
    assert (known[:, :-1] == chosen.index).all()
    assert (known[:, -1] == -1).all()
    again = Selected(torch.tensor([[P, 3]] * B), P + 1).kept(known)  # the package, and a token
    assert again.tolist() == [[-1, int(index[3])] for index in chosen.index]
    for other in (assigned(), weighted(), soft(), transformed()):
        assert other.kept(places) is None


def test_a_package_comes_back_to_what_went_into_it() -> None:
    merge, x = with_package(), torch.randn(B, N, D)
    y = merge(x)
    back = merge.unmerge(y)
    gone = merge.weight > 0
    torch.testing.assert_close(back[~gone], x[~gone])
    torch.testing.assert_close(back[gone], y[:, -1:].expand(-1, N, -1)[gone])
    amount = torch.rand(B, N)
    torch.testing.assert_close(merge.carried(amount).sum(1), amount.sum(1))
