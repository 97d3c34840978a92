"""Every kind of merge: convex combinations, mass kept, compiled form equal to the eager one."""

import pytest
import torch

from ltm.merge import Assigned, Local, MaxMagnitude, Merge, NormKept
from ltm.methods.ltm import window_anchors

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


MERGES = {"assigned": assigned, "local": local}


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


def test_repeated_merges_are_the_same_for_each_row(merge: Merge) -> None:
    x = torch.randn(B, N, D)
    twice = merge.repeated(2)(x.repeat_interleave(2, 0))
    torch.testing.assert_close(twice, merge(x).repeat_interleave(2, 0))


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
