"""ToFu: prune, then MLERP."""

from typing import Any

import pytest
import torch

import ltm
from ltm.merge import NormKept
from ltm.methods.tofu import prune_pairs

from .by_hand import Tokens, assert_agrees, cosine
from .conftest import SIX

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


@pytest.mark.parametrize(
    ("backbone", "size", "r"), [("vit_tiny_patch16_224", 96, 2), (TINY, 32, 9)]
)
def test_tofu_as_published(backbone: str, size: int, r: int) -> None:
    """Up to the third block the destination stays as it is, from then on it is MLERP's."""

    def reduce(layer: int, tokens: Tokens) -> Tokens:
        keys, prefix = tokens.keys, tokens.prefix
        assert keys is not None
        A, B = range(prefix, len(keys), 2), range(prefix + 1, len(keys), 2)
        edges = []
        for a in A:
            b = max(B, key=lambda b: cosine(keys[a], keys[b]))
            edges.append((cosine(keys[a], keys[b]), a, b))
        pairs = sorted(edges, reverse=True)[:r]
        for b in {b for _, _, b in pairs}:
            sources = [a for _, a, into in pairs if into == b]
            total = [tokens.sizes[n] * tokens.x[n] for n in (b, *sources)]
            mean = torch.stack(total).sum(0) / sum(tokens.sizes[n] for n in (b, *sources))
            largest = max(float(tokens.x[n].norm()) for n in (b, *sources))
            if layer >= 3:
                tokens.x[b] = mean / mean.norm() * largest
            for a in sources:
                tokens.absorb(a, b)
        gone = {a for _, a, _ in pairs}
        return tokens.chosen([n for n in range(len(keys)) if n not in gone])

    assert_agrees(backbone, "tofu", reduce, image_size=size, proportional=True, r=r, prune_blocks=3)
