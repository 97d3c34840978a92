"""The control: a plain ViT of fewer blocks or fewer heads, of the GMACs that a method leaves."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import timm
import torch

import ltm
import ltm.timm_models

if TYPE_CHECKING:
    from pathlib import Path

TINY = "vit_nano_patch4_32"
SMALL = "vit_small_patch16_224"


@pytest.mark.parametrize(
    ("how", "target", "arguments"),
    [
        ("shallower", 3.68, {"depth": 9}),
        ("narrower", 3.68, {"embed_dim": 320, "num_heads": 5}),
        pytest.param("shallower", 4.3, {"depth": 11}, marks=pytest.mark.slow),
        pytest.param("narrower", 100.0, {}, marks=pytest.mark.slow),
    ],
)
def test_the_budget_is_kept_and_the_next_size_breaks_it(
    how: str, target: float, arguments: dict[str, int]
) -> None:
    with torch.device("meta"):
        model: Any = ltm.create_model(SMALL, "smaller", target_gmacs=target, how=how)
        plain = timm.create_model(SMALL, **arguments)
        whole = ltm.create_model(SMALL, "none")
    assert {k: x.shape for k, x in model.state_dict().items()} == {
        k: x.shape for k, x in plain.state_dict().items()
    }
    gmacs, most = ltm.count(model).gmacs, ltm.count(whole).gmacs
    assert gmacs <= target
    part, full = ("depth", 12) if how == "shallower" else ("heads", 6)
    n = model.plan[part]
    assert model.plan == {"depth": 12, "heads": 6} | {part: n}
    if n < full:
        with torch.device("meta"):
            next_size = ltm.create_model(SMALL, "smaller", plan={part: n + 1})
        assert target < ltm.count(next_size).gmacs <= most


def test_it_is_timms_network_of_that_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = ltm.create_model(
        TINY, "smaller", plan={"depth": 3, "heads": 1}, num_classes=5, drop_path=0.3
    )
    plain: Any = timm.create_model(
        TINY, depth=3, num_heads=1, embed_dim=32, num_classes=5, drop_path_rate=0.3
    )
    plain.load_state_dict(model.state_dict())
    assert model.blocks[2].drop_path1.drop_prob == plain.blocks[2].drop_path1.drop_prob > 0.29
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), plain.eval()(x))
        torch.testing.assert_close(copy.deepcopy(model)(x), plain(x))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    again = ltm.create_model(
        TINY, "smaller", plan=model.plan, num_classes=5, checkpoint=tmp_path / "weights.pt"
    )
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), plain(x))


@pytest.mark.slow
def test_a_ratio_is_that_of_the_macs() -> None:
    whole = ltm.count(ltm.create_model(TINY, "none")).gmacs
    for ratio, least in ((1.0, 1.0), (None, 0.5), (0.6, 0.5)):
        model = ltm.create_model(TINY, "smaller", compression_ratio=ratio)
        share = ltm.count(model).gmacs / whole
        assert least <= share <= (ratio or 0.8) + 1e-9
    assert ltm.create_model(TINY, "smaller", compression_ratio=1.0).plan == {"depth": 4, "heads": 2}


def test_its_size_stays() -> None:
    model: Any = ltm.create_model(TINY, "smaller", compression_ratio=0.6)
    model.set_compression(0.6)
    model.set_compression(model.plan)
    for to in (0.5, 1, None, {"depth": 1}):
        with pytest.raises(ltm.FieldError, match="cannot change: a smaller network is built"):
            model.set_compression(to)
    assert model.compression == 0.6


def test_timm_knows_it_by_our_names() -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(
            f"ltm_{SMALL}", method="smaller", how="narrower", target_gmacs=3.68, num_classes=7
        )
    assert model.plan == {"depth": 12, "heads": 5}
    assert model.num_classes == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target_gmacs": 1e-6}, "target_gmacs is 1e-06, allowed is 0.0"),
        ({"target_gmacs": 1.0, "compression_ratio": 0.5}, "is given beside"),
        ({"compression_ratio": 1e-4}, "compression_ratio is 0.0001, allowed is 0.326 to 1"),
        ({"compression_ratio": 1.5}, "compression_ratio is 1.5, allowed is a number in"),
        ({"plan": {"depth": 5}}, "plan has depth 5, allowed is a whole number from 1 to 4"),
        ({"plan": {"blocks.0": 5}}, "plan names site 'blocks.0'"),
        ({"how": "wider"}, "option 'how' is 'wider', allowed are shallower, narrower"),
        ({"r": 8}, "option 'r' is no option of method 'smaller'"),
        ({"as_fast_as": "tomee"}, "uniform: did you mean 'tome'?"),
        ({"as_fast_as": "smaller"}, "option 'as_fast_as' is 'smaller'"),
        ({"as_fast_as": "tome", "compression_ratio": 2}, "compression_ratio is 2"),
        ({"pretrained": True}, "pretrained is true, but nobody published weights"),
    ],
)
def test_what_is_not_possible_is_told(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ltm.FieldError) as caught:
        ltm.create_model(TINY, "smaller", **options)
    assert says in str(caught.value)


def test_it_can_be_as_fast_as_a_method() -> None:
    torch.manual_seed(0)
    model: Any = ltm.create_model(
        "vit_tiny_patch16_224", "smaller", as_fast_as="tome", compression_ratio=0.5, image_size=160
    )
    assert 1 <= model.plan["depth"] < 12
    assert model.plan["heads"] == 3
    model.set_compression(model.plan)


def test_without_values_it_costs_what_the_method_does() -> None:
    with torch.device("meta"):
        tome = ltm.create_model(SMALL, "tome", compression_ratio=0.6)
        model = ltm.create_model(SMALL, "smaller", as_fast_as="tome", compression_ratio=0.6)
        same = ltm.create_model(SMALL, "smaller", target_gmacs=ltm.count(tome).gmacs)
    assert model.plan == same.plan


def test_other_families_are_refused() -> None:
    with pytest.raises(ltm.FieldError, match="'smaller', which has no smaller Swin"):
        ltm.create_model("swin_nano_patch2_window4_32", "smaller")
