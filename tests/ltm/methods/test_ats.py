"""ATS: tokens sampled at quantiles of significance, a number that differs between images."""

import pytest
import torch

from ltm.methods.ats import sample

from .written_out import CLASSY, POOLED, State, assert_agrees, create


def sampled(significance: list[float], slots: int) -> list[int]:
    """By the formula, for one image: numbers of tokens in their order."""
    K, total = slots + 1, sum(significance)
    sums, so_far = [], 0.0
    for value in significance:
        so_far += value / total
        sums.append(so_far)
    quantiles = [(2 * k - 1) / (2 * K) for k in range(1, K)]
    return sorted({min(range(len(sums)), key=lambda n: abs(q - sums[n])) for q in quantiles})


@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
def test_the_network_is_that_of_the_formula(backbone: str) -> None:
    model, images = create(backbone, "ats", images=3, calm=True, compression_ratio=0.7)
    for block in model.blocks:  # some tokens have so much of the attention that fewer stay
        torch.nn.init.normal_(block.attn.qkv.weight, std=3 * model.embed_dim**-0.5)
    counts: list[int] = []

    def keep(s: State) -> None:
        if s.kept is None:
            return
        significance = [0.0] * len(s.tokens)
        for head, values in zip(s.class_attention(), s.values[:, s.prefix :], strict=True):
            for n in range(len(s.tokens)):
                significance[n] += float(head[n]) * float(values[n].square().sum().sqrt())
        index = sampled(significance, s.kept)
        counts.append(len(index))
        s.replace([[n] for n in index])

    assert_agrees(model, images, keep, proportional=False)
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
