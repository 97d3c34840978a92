"""Swin: windows of other sizes than timm built."""

import pytest
import timm
import torch

import ltm
from ltm.backbones.swin import resized_bias


def test_swin_reads_its_bias_at_the_distances_of_merged_tokens() -> None:
    # a table that is linear in the distance gives that distance, stretched
    steps = torch.arange(-6.0, 7.0)
    table = (steps[:, None] + 100 * steps).reshape(-1, 1)
    bias = resized_bias(table, (7, 7), (6, 5))[0].view(6, 5, 6, 5)
    assert bias[3, 2, 1, 2] == pytest.approx(2 * 7 / 6, abs=1e-4)
    assert bias[0, 3, 0, 1] == pytest.approx(100 * 2 * 7 / 5, abs=1e-3)
    square = torch.randn(169, 2)
    attention = timm.create_model("swin_tiny_patch4_window7_224").layers[2].blocks[0].attn
    index = attention.relative_position_index
    expected = square[index.view(-1)].view(49, 49, 2).permute(2, 0, 1)
    torch.testing.assert_close(resized_bias(square, (7, 7), (7, 7)), expected)


def test_swin_blocks_on_smaller_windows_are_timms_own() -> None:
    """A block told to use timm's window computes what timm's forward computes."""
    model = ltm.create_model("swin_tiny_patch4_window7_224", compression_ratio=1).eval()
    block = model.layers[2].blocks[1]  # type: ignore[union-attr,index]
    x = torch.randn(2, 14, 14, 384)
    with torch.no_grad():
        torch.testing.assert_close(block(x, (7, 7)), block(x))
