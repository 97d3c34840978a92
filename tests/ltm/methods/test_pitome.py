"""PiToMe: energy, who is protected, and the network as its authors' formulas have it."""

import math
from typing import Any

import pytest
import torch

import ltm
from ltm.methods.pitome import energy, merge_by_energy

from .conftest import on_circle
from .written_out import CLASSY, POOLED, Formula, State, assert_agrees, cosine, create


def test_pitome_energy() -> None:
    """Tokens at 0 and 60 degrees, margin 0.9: f(0.1) = 0.1 and f(-0.4) = exp(-0.4) - 1."""
    expected = (0.1 + math.exp(0.5 - 0.9) - 1) / 2
    torch.testing.assert_close(energy(on_circle(0, 60), 0.9), torch.full((1, 2), expected))
    expected = (0.6 + 0.1) / 2  # above the margin it is what the cosine has beyond it
    torch.testing.assert_close(energy(on_circle(0, 60), 0.4), torch.full((1, 2), expected))


def test_pitome_protects_what_is_alone() -> None:
    # a group of four near 0 degrees, and two that are alone
    metric = on_circle(0, 90, 2, 3, 200, 5)
    merge = merge_by_energy(metric, torch.ones(1, 6), 4, margin=0.9, alpha=1.0, protects=True)
    groups = [set((merge.slot[0] == s).nonzero().flatten().tolist()) for s in range(4)]
    assert {1} in groups
    assert {4} in groups
    assert sorted(map(len, groups)) in ([1, 1, 2, 2], [1, 1, 1, 3])


def test_without_protection_the_best_edges_between_the_halves_merge() -> None:
    # by energy: 2, 3, 0, 5 (in some order), then 1 and 4, which are each other's only choice
    metric = on_circle(0, 90, 2, 3, 91, 5)
    merge = merge_by_energy(metric, torch.ones(1, 6), 3, margin=0.9, alpha=1.0, protects=False)
    groups = [set((merge.slot[0] == s).nonzero().flatten().tolist()) for s in range(3)]
    assert {1, 4} in groups


def by_authors(ratio: float, depth: int, margin: float, unprotected: range) -> Formula:
    def merge(s: State) -> None:
        keys = s.keys[s.prefix :]
        N = len(keys)
        k = math.floor(N - N * ratio)
        m = margin * (1 - s.block / depth)

        def f(x: float) -> float:
            return x if x > 0 else math.exp(x) - 1

        energies = [
            sum(f(cosine(keys[i], keys[j]) - m) for j in range(N) if j != i) / (N - 1)
            for i in range(N)
        ]
        ranked = sorted(range(N), key=lambda i: -energies[i])
        if s.block not in unprotected:
            ranked = ranked[: 2 * k]
        A, B = ranked[::2], ranked[1::2]
        edges = []
        for a in A:
            b = max(B, key=lambda b: cosine(keys[a], keys[b]))
            edges.append((cosine(keys[a], keys[b]), a, b))
        best = sorted(edges, reverse=True)[:k]
        gone = {a for _, a, _ in best}
        s.replace([[i, *(a for _, a, b in best if b == i)] for i in range(N) if i not in gone])

    return merge


@pytest.mark.parametrize(
    ("backbone", "size", "depth", "options", "margin", "unprotected"),
    [
        (CLASSY, 96, 12, {}, 0.75, range(6)),
        (CLASSY, 96, 12, {"margin": 0.9, "unprotected": "second"}, 0.9, range(6, 12)),
        (CLASSY, 64, 12, {"unprotected": "none"}, 0.75, range(0)),
        (POOLED, 32, 4, {}, 0.75, range(2)),
    ],
)
def test_pitome_as_published(
    backbone: str, size: int, depth: int, options: dict[str, Any], margin: float, unprotected: range
) -> None:
    model, images = create(backbone, "pitome", images=3, image_size=size, r=0.15, **options)
    formula = by_authors(0.85, depth, margin, unprotected)
    assert_agrees(model, images, formula, proportional=False)


def test_every_block_keeps_the_same_part() -> None:
    model: Any = ltm.create_model("vit_small_patch16_224", "pitome", r=0.075)
    arrives = 196
    for kept in model.plan.values():
        assert kept == arrives - math.floor(arrives - arrives * 0.925)
        arrives = kept
    assert len(model.plan) == 12
    spent: Any = ltm.create_model("vit_small_patch16_224", "pitome", compression_ratio=0.7)
    stays = [*spent.plan.values()]
    assert sum(stays) / 12 / 196 == pytest.approx(0.7, abs=1 / 196)
    assert stays[0] - stays[1] > stays[-2] - stays[-1]
    with pytest.raises(ltm.FieldError, match="first, second, none"):
        ltm.create_model("vit_nano_patch4_32", "pitome", unprotected="third")
