"""ToFu: prune, then MLERP."""

from typing import Any

import pytest
import torch

import ltm
from ltm.merge import NormKept
from ltm.methods.tofu import prune_pairs

from .conftest import SIX
from .written_out import CLASSY, POOLED, State, assert_agrees, cosine, create

TINY = "vit_nano_patch4_32"


def test_tofu_prunes_the_source() -> None:
    x = torch.arange(6.0).view(1, 6, 1)
    mass = torch.ones(1, 6)
    merge = prune_pairs(SIX, mass, 4)  # {1, 4}, {2}, {0, 3}, {5}: B tokens 1, 3 and 5 stay
    assert merge(x).flatten().tolist() == [1, 2, 3, 5]
    assert merge.sizes(mass).tolist() == [[2, 1, 2, 1]]


def test_mlerp_has_the_direction_of_the_mean_and_the_largest_norm() -> None:
    x = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [0.0, -2.0]]])
    slot = torch.tensor([[0, 0, 1]])
    merge = NormKept.normalised(slot, torch.tensor([[1.0, 3.0, 1.0]]), 2)
    mean = torch.tensor([3 / 4, 12 / 4])
    expected = torch.stack([4 * mean / mean.norm(), torch.tensor([0.0, -2.0])])
    torch.testing.assert_close(merge(x)[0], expected)


def test_tofu_prunes_early_and_merges_late() -> None:
    model: Any = ltm.create_model(TINY, "tofu", compression_ratio=0.6, prune_blocks=3)
    kinds: list[str] = []
    model.method.register_forward_hook(lambda _m, _a, merge: kinds.append(type(merge).__name__))
    with torch.no_grad():
        model(torch.randn(1, 3, 32, 32))
    assert kinds == ["Assigned", "Assigned", "Assigned", "NormKept"]


@pytest.mark.parametrize(("backbone", "r"), [(CLASSY, 2), (POOLED, 9)])
def test_tofu_as_published(backbone: str, r: int) -> None:
    """Up to the third block the destination stays as it is, from then on it is MLERP's."""

    def reduce(s: State) -> None:
        keys, first = s.keys, s.prefix
        A, B = range(first, len(keys), 2), range(first + 1, len(keys), 2)
        edges = []
        for a in A:
            b = max(B, key=lambda b: cosine(keys[a], keys[b]))
            edges.append((cosine(keys[a], keys[b]), a, b))
        pairs = sorted(edges, reverse=True)[:r]
        members, tokens = [], []
        for n in range(first, len(keys)):
            if n in {a for _, a, _ in pairs}:
                continue
            group = [n, *(a for _, a, into in pairs if into == n)]
            token = s.x[n]
            if len(group) > 1 and s.block >= 3:
                total = torch.stack([s.sizes[m] * s.x[m] for m in group]).sum(0)
                mean = total / sum(s.sizes[m] for m in group)
                token = mean / mean.norm() * max(float(s.x[m].norm()) for m in group)
            members.append([m - first for m in group])
            tokens.append(token)
        s.replace(members, tokens)

    model, images = create(backbone, "tofu", images=3, r=r, prune_blocks=3)
    assert_agrees(model, images, reduce)
