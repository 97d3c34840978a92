"""EViT: attentive tokens stay, the others become a sum that later takes part."""

import pytest
import torch

from ltm.methods.evit import fuse

from .written_out import CLASSY, POOLED, State, assert_agrees, create


@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
def test_the_network_is_that_of_the_formula(backbone: str) -> None:
    model, images = create(backbone, "evit", images=3, compression_ratio=0.7)

    def keep_and_fuse(s: State) -> None:
        if s.kept is None:
            return
        x, score = s.tokens, s.class_attention().mean(0)
        order = sorted(range(len(x)), key=lambda n: -float(score[n]))
        kept, others = order[: s.kept - 1], order[s.kept - 1 :]
        fused = torch.zeros_like(x[0])
        for n in others:
            fused = fused + score[n] * x[n]
        s.replace([*([n] for n in kept), others], [*x[kept], fused])

    assert_agrees(model, images, keep_and_fuse, proportional=False)


def test_the_published_counts_at_a_keep_rate_of_0_7_are_a_plan() -> None:
    """ceil(0.7 n) tokens of those that arrive, and the fused one: on 36 tokens 27, 20 and 15."""
    plan = {"blocks.3": 27, "blocks.6": 20, "blocks.9": 15}
    model, images = create("vit_tiny_patch16_224", "evit", plan=plan)
    with torch.no_grad():
        assert model.forward_features(images).shape[1] == 1 + 15


def test_the_fused_token_is_a_sum_and_no_mean() -> None:
    attention = torch.tensor([[0.1, 0.3, 0.05, 0.4]])
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    merge = fuse(attention, 3)
    torch.testing.assert_close(merge(x), torch.tensor([[[2.0], [4.0], [0.1 + 0.15]]]))
    assert merge.sizes().tolist() == [[1, 1, 2]]
    torch.testing.assert_close(fuse(attention, 1)(x), (attention[..., None] * x).sum(1)[None])


def test_attention_learns_through_the_fused_token() -> None:
    attention = torch.tensor([[0.1, 0.3, 0.05, 0.4]], requires_grad=True)
    fuse(attention, 3)(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])).sum().backward()
    assert attention.grad is not None
    assert attention.grad.tolist() == [[1, 0, 3, 0]]
