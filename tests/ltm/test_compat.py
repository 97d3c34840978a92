"""Private and unstable names of timm and torch: that they exist, and do what we rely on."""

from inspect import signature
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

from ltm import _compat


def test_feature_take_indices() -> None:
    assert [*signature(_compat.feature_take_indices).parameters][:2] == ["num_features", "indices"]
    assert _compat.feature_take_indices(4, None) == ([0, 1, 2, 3], 3)
    assert _compat.feature_take_indices(4, 2) == ([2, 3], 3)
    assert _compat.feature_take_indices(4, [-2, 0]) == ([2, 0], 2)


def test_feature_getter_net() -> None:
    assert {"out_indices", "prune"} <= signature(_compat.FeatureGetterNet).parameters.keys()
    model = timm.create_model("resnet10t", pretrained=False).eval()
    features = _compat.FeatureGetterNet(model, prune=False, out_indices=(1, 2))(
        torch.randn(1, 3, 32, 32)
    )
    assert [f.shape[-1] for f in features] == [8, 4]


def test_flop_counter_takes_formulas_and_names_modules() -> None:
    net = nn.Sequential(nn.Linear(3, 2)).to("meta")

    def cumsum(*_: Any, **__: Any) -> int:
        return 7

    counter = _compat.FlopCounterMode(display=False, custom_mapping={torch.ops.aten.cumsum: cumsum})
    with counter:
        net(torch.randn(5, 3, device="meta"))
        torch.zeros(3, device="meta").cumsum(0)
    found = counter.get_flop_counts()
    assert found["Sequential.0"] == {torch.ops.aten.addmm: 2 * 5 * 3 * 2}
    assert found["Global"][torch.ops.aten.cumsum] == 7


def test_sdpa_flop_count_takes_three_shapes() -> None:
    q, k, v = (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)
    assert _compat.sdpa_flop_count(q, k, v) == 2 * (2 * 2 * 3 * 5 * 7 * 4)


def test_fused_attention_is_one_of_our_names() -> None:
    q = torch.randn(1, 2, 5, 8)
    seen: list[Any] = []

    class Note(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    with Note():
        F.scaled_dot_product_attention(q, q, q)
    assert _compat.FUSED_ATTENTION_ON_CPU in seen
    assert _compat.FUSED_ATTENTION_ON_CPU in _compat.FUSED_ATTENTION
    assert len(set(_compat.FUSED_ATTENTION)) == 4


def test_embedding_bag_is_one_of_our_names() -> None:
    table, index = torch.randn(6, 3), torch.tensor([[0, 1], [2, 3]])
    weight = torch.ones(2, 2)
    formulas = dict.fromkeys(_compat.EMBEDDING_BAGS, lambda *_, **__: 11)
    counter = _compat.FlopCounterMode(display=False, custom_mapping=formulas)
    with counter, torch.no_grad():
        F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    assert sum(counter.get_flop_counts()["Global"].values()) == 11
    table.requires_grad_()
    counter = _compat.FlopCounterMode(display=False, custom_mapping=formulas)
    with counter:
        F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
    assert sum(counter.get_flop_counts()["Global"].values()) == 11


def test_embedded_patches_are_what_the_first_block_takes() -> None:
    for name in ("vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"):
        size = 56 if "14" in name else 64
        model: Any = timm.create_model(name, img_size=size, depth=1).eval()
        seen: list[torch.Tensor] = []
        model.blocks[0].register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        x = torch.randn(1, 3, size, size)
        with torch.no_grad():
            model(x)
            torch.testing.assert_close(_compat.embedded_patches(model, x), seen[0])


def test_window_sizes_keep_windows_when_the_image_size_changes() -> None:
    model: Any = timm.create_model(
        "swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1), embed_dim=24, num_heads=(1, 1, 1, 1)
    )
    model.set_input_size((448, 448), window_size=_compat.window_sizes(model))
    assert model.layers[0].blocks[0].window_size == (7, 7)
