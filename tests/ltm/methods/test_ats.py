"""ATS: tokens sampled at quantiles of significance, a number that differs between images."""

import pytest
import torch
from torch import Tensor

from ltm.methods.ats import sample

from .plain_vit import NETS, Seen, create, disagreement


def sampled(significance: list[float], slots: int) -> list[int]:
    """By the formula, for one image: numbers of tokens in their order."""
    K, total = slots + 1, sum(significance)
    sums, so_far = [], 0.0
    for value in significance:
        so_far += value / total
        sums.append(so_far)
    quantiles = [(2 * k - 1) / (2 * K) for k in range(1, K)]
    return sorted({min(range(len(sums)), key=lambda n: abs(q - sums[n])) for q in quantiles})


@pytest.mark.parametrize("backbone", NETS)
def test_the_network_is_that_of_the_formula(backbone: str) -> None:
    model, images = create(backbone, "ats", compression_ratio=0.7)
    counts: list[int] = []

    def keep(name: str, seen: Seen) -> tuple[Tensor, Tensor]:
        x = seen.x[seen.prefix :]
        if name not in model.plan:
            return x, x.new_ones(len(x))
        significance = [0.0] * len(x)
        for head, values in zip(seen.class_attention(), seen.values[:, seen.prefix :], strict=True):
            for n in range(len(x)):
                significance[n] += float(head[n]) * float(values[n].square().sum().sqrt())
        index = sampled(significance, model.plan[name])
        counts.append(len(index))
        return x[index], x.new_ones(len(index))

    assert disagreement(model, images, keep) < 1e-9
    planned = [*model.plan.values()] * len(images)
    assert all(count < most for count, most in zip(counts, planned, strict=True))
    assert len(set(counts)) > len(model.plan)  # images differ


def test_tokens_alike_stay_as_planned_and_one_of_all_significance_leaves_few() -> None:
    merge = sample(torch.tensor([[1.0] * 8, [1e3, *[1.0] * 7]]), 4)
    assert merge.present is not None
    assert merge.present.tolist() == [[True] * 4, [True, False, False, False]]
    assert merge.index[0].tolist() == sampled([1.0] * 8, 4)
    assert merge.index[1, 0] == 0


def test_padding_is_never_sampled_and_changes_nothing() -> None:
    torch.manual_seed(0)
    significance = torch.rand(50, 9, dtype=torch.float64).square()
    padded = torch.cat([significance, torch.zeros(50, 4, dtype=torch.float64)], 1)
    present = torch.arange(13).expand(50, -1) < 9
    merge = sample(padded, 6, present)
    assert merge.present is not None
    for i in range(50):
        expected = sampled(significance[i].tolist(), 6)
        assert merge.index[i][merge.present[i]].tolist() == expected
