"""The controls: what merges by chance, and what merges evenly, whatever the tokens are like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.nn import functional as F

import ltm
from ltm.methods import build_method

from .written_out import CLASSY, Formula, State, assert_agrees, create

if TYPE_CHECKING:
    from torch import Tensor

    from ltm.merge import Merge

TINY = "vit_nano_patch4_32"


def merges_of(model: Any, x: Tensor) -> list[Merge]:
    seen: list[Merge] = []
    hook = model.method.register_forward_hook(lambda _m, _args, merge: seen.append(merge))
    with torch.no_grad():
        model.eval()(x)
    hook.remove()
    return seen


def means_of(groups: dict[int, list[list[int]]]) -> Formula:
    """In blocks, groups of tokens become their means, slot by slot."""

    def merge(s: State) -> None:
        if s.block in groups:
            s.replace(groups[s.block])

    return merge


def groups_of(merge: Merge) -> list[list[int]]:
    """The sources of each slot, which are those of the first image in all others, too."""
    G = merge.weights()
    assert G is not None
    assert all(G[0].equal(other) for other in G[1:])
    return [G[0, :, p].nonzero().flatten().tolist() for p in range(merge.slots)]


def test_random_merges_are_means_of_what_merged() -> None:
    model, x = create(CLASSY, "random", images=3, compression_ratio=0.6)
    groups = {i: groups_of(merge) for i, merge in enumerate(merges_of(model, x))}
    assert [len(each) for each in groups.values()] == [*model.plan.values()]
    assert len(groups) == 12
    before = 36
    for each in groups.values():
        assert sorted(n for group in each for n in group) == [*range(before)]
        before = len(each)
    assert_agrees(model, x, means_of(groups), in_order=True)


def test_chance_is_that_of_the_seed_alone() -> None:
    def slots(seed: int, images: int = 2, ratio: float = 0.5) -> list[list[list[int]]]:
        torch.manual_seed(images)
        model: Any = ltm.create_model(TINY, "random", compression_ratio=ratio, seed=seed)
        return [groups_of(merge) for merge in merges_of(model, torch.randn(images, 3, 32, 32))]

    assert slots(0) == slots(0, images=5)
    assert slots(0) != slots(1)
    # every token is as often alone as any other
    alone = torch.zeros(64)
    for seed in range(200):
        of = build_method("random", {}, {"seed": seed}).slots_of(64, 32, "blocks.0")
        alone += torch.tensor([of.count(slot) == 1 for slot in of])
    assert (alone - alone.mean()).abs().max() < 5 * alone.mean().sqrt()
    model: Any = ltm.create_model(TINY, "random", compression_ratio=0.5)
    first = groups_of(merges_of(model, torch.randn(2, 3, 32, 32))[0])
    model.set_compression(0.7)
    assert len(groups_of(merges_of(model, torch.randn(2, 3, 32, 32))[0])) > len(first)
    model.set_compression(0.5)
    assert groups_of(merges_of(model, torch.randn(2, 3, 32, 32))[0]) == first
    with pytest.raises(ltm.FieldError, match="option 'seed' is -1, allowed is a whole number"):
        ltm.create_model(TINY, "random", seed=-1)


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_rows_and_columns_merge_where_a_grid_stays(method: str) -> None:
    model: Any = ltm.create_model(TINY, method, plan={"blocks.1": (5, 6)})
    (merge,) = merges_of(model, torch.randn(2, 3, 32, 32))
    groups = groups_of(merge)
    rows = [sorted({n // 8 for n in groups[6 * r]}) for r in range(5)]
    columns = [sorted({n % 8 for n in groups[c]}) for c in range(6)]
    assert groups == [
        [8 * i + j for i in row for j in column] for row in rows for column in columns
    ]
    assert sorted(i for row in rows for i in row) == [*range(8)]
    assert sorted(j for column in columns for j in column) == [*range(8)]


def test_uniform_merges_are_means_of_neighbours() -> None:
    plan = {"blocks.0": (5, 4), "blocks.2": (3, 3)}
    model, x = create(CLASSY, "uniform", images=3, plan=plan)
    groups = {0: [], 2: []}  # type: dict[int, list[list[int]]]
    for block, (h, w), (rows, columns) in ((0, (6, 6), (5, 4)), (2, (5, 4), (3, 3))):
        for r in range(rows):
            for c in range(columns):
                # the tokens whose centres lie in the slot's part of the image
                groups[block].append(
                    [
                        i * w + j
                        for i in range(h)
                        for j in range(w)
                        if r <= (i + 0.5) / h * rows < r + 1
                        and c <= (j + 0.5) / w * columns < c + 1
                    ]
                )
    assert [[*groups_of(merge)] for merge in merges_of(model, x)] == [*groups.values()]
    assert_agrees(model, x, means_of(groups), in_order=True)


def test_half_of_a_grid_is_average_pooling() -> None:
    model: Any = ltm.create_model(TINY, "uniform", plan={"blocks.0": (4, 4)})
    (merge,) = merges_of(model, torch.randn(2, 3, 32, 32))
    x = torch.randn(2, 64, 7)
    pooled = F.avg_pool2d(x.transpose(1, 2).view(2, 7, 8, 8), 2)
    torch.testing.assert_close(merge(x), pooled.flatten(2).transpose(1, 2))
    assert merge.sizes().eq(4).all()


@pytest.mark.parametrize("method", ["random", "uniform"])
def test_a_control_has_no_weights_and_goes_where_the_network_goes(method: str) -> None:
    base = ltm.create_model(TINY, "none")
    model: Any = ltm.create_model(TINY, method, compression_ratio=0.5)
    assert model.state_dict().keys() == base.state_dict().keys()
    half = model.to(torch.bfloat16)
    assert half(torch.randn(2, 3, 32, 32).bfloat16()).isfinite().all()
    assert {x.device.type for x in model.to("meta").buffers()} == {"meta"}
