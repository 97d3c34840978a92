"""Top-K: what the class token attends to stays, and nothing else."""

from typing import Any

import pytest
import torch

from ltm.interfaces import Site, SiteInput
from ltm.methods import build_method

from .written_out import CLASSY, POOLED, State, assert_agrees, create


@pytest.mark.parametrize("backbone", [CLASSY, POOLED])
def test_the_network_is_that_of_the_formula(backbone: str) -> None:
    model, images = create(backbone, "topk", images=3, compression_ratio=0.7)

    def keep(s: State) -> None:
        score = s.class_attention().mean(0).tolist()
        order = sorted(range(len(score)), key=lambda n: -score[n])
        s.replace([[n] for n in order[: s.kept]])

    assert_agrees(model, images, keep, proportional=False)


def test_by_default_the_tokens_are_r_r2_r3_after_blocks_3_6_9() -> None:
    model, _ = create("vit_tiny_patch16_224", "topk", compression_ratio=0.7)
    assert model.plan == {"blocks.3": 25, "blocks.6": 18, "blocks.9": 12}


def test_tokens_stay_in_the_order_of_the_image() -> None:
    method: Any = build_method("topk", {}, {})
    site = Site("blocks.0", 2, (1, 5), 5, 3)
    attention = torch.tensor([[[0.1, 0.3, 0.0, 0.4, 0.2]], [[0.5, 0.0, 0.1, 0.2, 0.2]]])
    attention = torch.cat([attention, attention.roll(1, -1) * 0.1], 1)  # mean over heads
    merge = method(SiteInput(torch.randn(2, 5, 2), site, class_attention=attention))
    assert merge.index.tolist() == [[1, 3, 4], [0, 3, 4]]
