"""DPC-KNN: density peaks, nearest centres, learned weights."""

import math
from typing import Any

import pytest
import torch

import ltm
from ltm.methods.dpcknn import cluster, density_peaks

from .written_out import CLASSY, POOLED, State, assert_agrees, create


def reduce_as(model: Any, k: int = 5) -> Any:
    """The formulas of arXiv 2204.08680, in loops over tokens."""

    def reduce(s: State) -> None:
        if s.kept is None:
            return
        tokens = list(s.tokens)
        N, D = len(tokens), len(tokens[0])
        d = [[float((a - b).norm()) / math.sqrt(D) for b in tokens] for a in tokens]
        rho = [math.exp(-sum(x * x for x in sorted(row)[:k]) / k) for row in d]
        largest = max(map(max, d))
        delta = [min([d[i][j] for j in range(N) if rho[j] > rho[i]] or [largest]) for i in range(N)]
        centres = sorted(sorted(range(N), key=lambda i: -rho[i] * delta[i])[: s.kept])
        nearest = [i if i in centres else min(centres, key=lambda c: d[i][c]) for i in range(N)]
        members = [[i for i in range(N) if nearest[i] == c] for c in centres]
        score = model.method.importance[model.method.numbers[f"blocks.{s.block}"]]
        weight = [float((score.weight[0] @ x + score.bias[0]).exp()) for x in tokens]
        total = [sum(weight[i] for i in m) for m in members]
        values = [
            sum(weight[i] * tokens[i] for i in m) / t for m, t in zip(members, total, strict=True)
        ]
        s.replace(members, values)

    return reduce


@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
def test_the_network_is_that_of_the_formulas(backbone: str) -> None:
    model, images = create(backbone, "dpcknn", compression_ratio=0.7)
    with torch.no_grad():
        for score in model.method.importance.values():
            score.weight.normal_(std=0.1)
            score.bias.fill_(0.3)
    formula = reduce_as(model)
    assert_agrees(model, images, formula, at_input=True, proportional=False, in_order=True)


def test_each_site_of_a_plan_has_its_own_score() -> None:
    model: Any = ltm.create_model(CLASSY, "dpcknn", image_size=96, compression_ratio=0.7)
    assert model.plan == {"blocks.3": 25, "blocks.6": 18, "blocks.9": 12}
    assert list(model.method.importance) == ["3", "6", "9"]
    learned = model.method.importance["3"]
    model.set_compression(1)
    model.set_compression({"blocks.3": 20, "blocks.4": 10})
    assert model.method.importance["3"] is learned
    assert "4" in model.method.importance


def test_tokens_that_are_alike_are_told_apart_by_position() -> None:
    """Without noise: three pairs of equal tokens, of which two have to be centres."""
    x = torch.tensor([0.0, 0.0, 5.0, 5.0, 9.0, 9.0]).view(1, 6, 1)
    assert density_peaks(x, 2, 2).tolist() == [[0, 2]]
    merge = cluster(x, torch.ones(1, 6), 2, 2)
    assert merge.slot.tolist() == [[0, 0, 1, 1, 1, 1]]
    assert merge(x).flatten().tolist() == [0, 7]


def test_the_score_learns() -> None:
    model: Any = ltm.create_model(POOLED, "dpcknn", compression_ratio=0.5, num_classes=3)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for score in model.method.importance.values():
        assert score.weight.grad.abs().sum() > 0
