"""Heatmaps: the weights are those of the merges, through all of them, and land on the picture."""

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import ltm
from ltm.methods import grids

if TYPE_CHECKING:
    from ltm.merge import Merge

NETS: list[tuple[str, int, dict[str, Any]]] = [
    ("vit_nano_patch4_32", 32, {"plan": {"blocks.0": 40, "blocks.2": 12}}),
    ("vit_nano_patch4_32", 32, {"plan": {"blocks.0": (6, 5)}}),
    ("swin_nano_patch2_window4_32", 64, {"plan": {"layers.2": (3, 3)}}),
    ("mobilevit_xxs", 64, {"plan": {"stages.2.1": (3, 3), "stages.3.1": (1, 1)}}),
]


def create(backbone: str, size: int, options: dict[str, Any], method: str = "ltm") -> Any:
    if method in ("spvit", "dynamicvit", "kmedoids", "diffrate") and "blocks.0" in options.get(
        "plan", {}
    ):
        options = {"plan": {"blocks.1": 40, "blocks.2": 12}}  # not in the first block
    if method in ("cubistmerge", "uniform") and "blocks.2" in options.get("plan", {}):
        options = {"plan": {"blocks.0": (6, 7), "blocks.2": (4, 3)}}
    torch.manual_seed(0)
    return ltm.create_model(backbone, method, image_size=size, num_classes=5, **options)


def of_target_that_stays(model: Any, image: torch.Tensor) -> ltm.Heatmap:
    """Of the token at (1, 1), or, where that is dropped, of the first that is not."""
    heat = ltm.heatmap(model, image, (1, 1))
    assert heat.target == (1, 1)
    places = iter(product(*map(range, heat.weights.shape)))
    while not heat.weights.any():
        heat = ltm.heatmap(model, image, next(places))
    return heat


TAKEN = [
    (*net, method)
    for net in NETS
    for method in ltm.list_token_methods()
    if grids(method) != "refused" or all(isinstance(k, int) for k in net[2]["plan"].values())
]


@pytest.mark.parametrize(("backbone", "size", "options", "method"), TAKEN)
def test_weights_of_one_target(
    backbone: str, size: int, options: dict[str, Any], method: str
) -> None:
    model = create(backbone, size, options, method).train()
    image = torch.rand(3, size, size)
    heat = of_target_that_stays(model, image)
    assert model.training
    assert heat.weights.sum() == pytest.approx(1, abs=1e-5)
    assert (heat.weights >= 0).all()
    assert heat.weights[heat.target] > 0
    assert 1 <= heat.sources <= heat.weights.numel()
    picture = heat.picture(image)
    assert picture.shape == image.shape
    assert picture.dtype == torch.uint8


def test_every_module_keeps_its_mode() -> None:
    """A frozen batch norm stays in evaluation mode when the network trains."""
    model = create("mobilevit_xxs", 64, NETS[3][2]).train()
    frozen = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in frozen:
        module.eval()
    assert len(frozen) > 20
    ltm.heatmap(model, torch.rand(3, 64, 64), (1, 1))
    assert not any(module.training for module in frozen)
    assert model.training
    model.eval()
    model.head.train()
    ltm.heatmap(model, torch.rand(3, 64, 64), (1, 1))
    assert (model.training, model.head.training) == (False, True)


def test_a_network_in_float64_has_heatmaps() -> None:
    backbone, size, options = NETS[0]
    model = create(backbone, size, options)
    image = torch.rand(3, size, size)
    heat = ltm.heatmap(model, image, (2, 3))
    again = ltm.heatmap(model.double(), image.double(), (2, 3))
    torch.testing.assert_close(again.weights, heat.weights, rtol=1e-4, atol=1e-5)


def test_two_merges_are_followed_as_one() -> None:
    backbone, size, options = NETS[0]
    model = create(backbone, size, options).eval()
    image = torch.rand(3, size, size)
    merges: list[Merge] = []
    model.method.register_forward_hook(lambda _m, _a, merge: merges.append(merge))
    heat = ltm.heatmap(model, image, (2, 3))
    G = (merges[0].weights() @ merges[1].weights())[0]
    torch.testing.assert_close(heat.weights.flatten(), G[:, G[2 * 8 + 3].argmax()])
    first = ltm.heatmap(model, image, (2, 3), site="blocks.0")
    assert first.sources <= heat.sources


def test_rivals_stand_side_by_side() -> None:
    image = torch.rand(3, 32, 32)
    heats = [ltm.heatmap(create(*NETS[0], method), image, (1, 1)) for method in ("ltm", "tome")]
    picture = ltm.beside(image, heats)
    assert picture.shape == (3, 32, 65)
    torch.testing.assert_close(picture[:, :, :32], heats[0].picture(image))
    torch.testing.assert_close(picture[:, :, 33:], heats[1].picture(image))


def test_windows_merge_within_themselves() -> None:
    backbone, size, options = NETS[2]
    heat = ltm.heatmap(create(backbone, size, options), torch.rand(3, size, size), (5, 2))
    assert heat.weights.shape == (8, 8)
    assert heat.weights[4:, :4].sum() == pytest.approx(1, abs=1e-5)


def test_the_target_is_framed_and_the_unmerged_image_is_dim() -> None:
    weights = torch.zeros(4, 4)
    weights[0, 0] = 1.0
    picture = ltm.Heatmap(weights, (0, 0)).picture(torch.ones(3, 64, 64))
    assert picture[:, 0, 0].tolist() == [26, 255, 51]
    assert picture[:, 40, 40].tolist() == [89, 89, 89]
    assert picture[0, 8, 8] > picture[2, 8, 8]


def test_what_is_not_possible_is_named() -> None:
    image = torch.rand(3, 32, 32)
    with pytest.raises(ValueError, match="merges nothing"):
        ltm.heatmap(ltm.create_model("vit_nano_patch4_32", "none"), image, (0, 0))
    model = ltm.create_model("vit_nano_patch4_32", compression_ratio=0.5)
    with pytest.raises(ValueError, match="rows 0 to 7"):
        ltm.heatmap(model, image, (8, 0))
    with pytest.raises(ValueError, match=r"blocks\.0"):
        ltm.heatmap(model, image, (0, 0), site="blocks.3")
