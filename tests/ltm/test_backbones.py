"""Every family of backbones: base kept, table met, grids kept, dense features, other sizes."""

from typing import Any

import pytest
import timm
import torch

import ltm
from ltm.backbones import find_backbone
from ltm.backbones.swin import resized_bias
from ltm.methods import Method

SMALL = {
    "mobilevit_xxs": 64,
    "efficientvit_b0": 64,
    "swin_nano_patch2_window4_32": 32,
    "vit_nano_patch4_32": 32,
}


def images(size: int, n: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(n, 3, size, size)


def create(backbone: str, method: str = "ltm", **options: Any) -> Any:
    torch.manual_seed(0)
    return ltm.create_model(
        backbone, method, image_size=SMALL[backbone], num_classes=5, **options
    ).eval()


def test_default_plans_meet_the_published_table() -> None:
    for row, base, merged in ltm.table():
        assert row.ours(merged) == pytest.approx(row.gmacs, rel=0.025), row
        assert row.ours(base) == pytest.approx(row.base_gmacs, rel=0.08), row
        # timm's Swin-T has 28.3 million parameters, whatever the paper rounds
        assert merged.params_m == pytest.approx(row.params_m, abs=0.75), row
        assert base.params_m < merged.params_m < base.params_m + 0.05
        assert merged.blocks["method"].gmacs < 0.02 * merged.gmacs


@pytest.mark.parametrize("backbone", SMALL)
def test_keep_ratio_1_is_exactly_the_base_model(backbone: str) -> None:
    base, model = create(backbone, "none"), create(backbone, compression_ratio=1)
    _, unexpected = model.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected
    x = images(SMALL[backbone])
    with torch.no_grad():
        assert torch.equal(model(x), base(x))


@pytest.mark.parametrize("method", ltm.list_token_methods())
@pytest.mark.parametrize("backbone", SMALL)
def test_every_method_trains_on_every_backbone(backbone: str, method: str) -> None:
    model = create(backbone, method, compression_ratio=0.5).train()
    base = create(backbone, "none")
    assert ltm.count(model).gmacs < ltm.count(base).gmacs
    model(images(SMALL[backbone])).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without, without


@pytest.mark.parametrize("backbone", SMALL)
def test_one_set_of_weights_serves_every_ratio(backbone: str) -> None:
    model = create(backbone, compression_ratio=0.5)
    x = images(SMALL[backbone])
    with torch.no_grad():
        half = model(x)
        costs = []
        for ratio in (0.3, 0.6, 1.0):
            model.set_compression(ratio)
            assert model(x).shape == (2, 5)
            costs.append(ltm.count(model).gmacs)
        assert costs == sorted(costs)
        model.set_compression(0.5)
        assert torch.equal(model(x), half)
    plan = model.plan
    with pytest.raises(ValueError, match="allowed"):
        model.set_compression(0.0)
    assert model.plan == plan


@pytest.mark.parametrize("backbone", SMALL)
def test_dense_features_have_timms_shapes(backbone: str) -> None:
    x = images(SMALL[backbone])
    base, model = create(backbone, "none"), create(backbone, compression_ratio=0.5)
    with torch.no_grad():
        final, expected = base.forward_intermediates(x)
        merged, features = model.forward_intermediates(x)
        assert [f.shape for f in features] == [f.shape for f in expected]
        torch.testing.assert_close(merged, model.forward_features(x))
        last = model.forward_intermediates(x, indices=1, intermediates_only=True)
        torch.testing.assert_close(last[0], features[-1])
        model.set_compression(1.0)
        model.load_state_dict(base.state_dict(), strict=False)
        whole, features = model.forward_intermediates(x)
        torch.testing.assert_close(whole, final)
        torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("backbone", SMALL)
def test_the_image_size_may_change(backbone: str) -> None:
    model = create(backbone, compression_ratio=0.5)
    size = 2 * SMALL[backbone]
    with pytest.raises((ValueError, AssertionError), match=str(SMALL[backbone])):
        model(images(size))
    before = model.sites
    model.set_input_size(size)
    assert model(images(size)).shape == (2, 5)
    assert model.sites != before


@pytest.mark.parametrize("backbone", SMALL)
def test_heads_and_classifiers_are_timms(backbone: str) -> None:
    model = create(backbone, compression_ratio=0.5)
    x = images(SMALL[backbone])
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(model.get_classifier()(pooled), model(x))
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)


@pytest.mark.parametrize("backbone", SMALL)
def test_gradient_checkpointing_changes_nothing(backbone: str) -> None:
    model = create(backbone, compression_ratio=0.5)
    for module in model.modules():  # statistics of a batch would be counted twice
        module.train(not isinstance(module, torch.nn.BatchNorm2d))
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images(SMALL[backbone])).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


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


def test_ratios_on_grids_keep_rows_and_columns() -> None:
    model = create("efficientvit_b0", compression_ratio=0.7)
    assert model.plan == {"stages.2": (4, 3)}
    seen: list[torch.Size] = []
    model.stages[3].blocks[0].register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape))
    with torch.no_grad():
        model(images(64))
    assert seen[0][-2:] == (4, 3)


def test_names_of_the_paper_and_short_ones() -> None:
    for name, timm_name in {
        "ltm_mobilevit_s": "mobilevit_s",
        "vit_s": "vit_small_patch16_224",
        "swin_t": "swin_tiny_patch4_window7_224",
        "ltm_swin_tiny": "swin_tiny_patch4_window7_224",
    }.items():
        assert find_backbone(name)[0] == timm_name


def test_only_what_can_merge_is_listed() -> None:
    names = set(ltm.list_backbones())
    assert {"deit_small_patch16_224", "vit_little_patch16_reg4_gap_256"} <= names
    assert not names & {"deit_tiny_distilled_patch16_224", "mobilevitv2_100", "efficientvit_l1"}
    assert not names & {"vit_base_patch16_xp_224", "vit_dwee_patch16_reg1_gap_256", "resnet50"}


def test_timms_registry_has_the_published_networks() -> None:
    model = timm.create_model("ltm_mobilevit_xs", num_classes=5, img_size=64)
    assert isinstance(model.method, Method)
    assert model(images(64)).shape == (2, 5)
    features = timm.create_model(
        "ltm_efficientvit_b1", features_only=True, img_size=64, compression_ratio=0.5
    )
    assert [f.shape[-1] for f in features(images(64))] == [16, 8, 4, 2][
        -len(features(images(64))) :
    ]


@pytest.mark.parametrize(
    ("backbone", "options", "says"),
    [
        ("swin_t", {"image_size": 256}, "multiples of 112"),
        ("swin_t", {"plan": {"layers.2": (8, 8)}}, "1 x 1 to 7 x 7"),
        ("swin_t", {"plan": {"stages.2": (6, 6)}}, "layers.2"),
        ("mobilevit_s", {"plan": {"stages.2.1": 30}}, "14 x 14"),
        ("mobilevit_s", {"image_size": 16}, "32 x 32 or more"),
        ("mobilevitv2_100", {}, "first version"),
        ("efficientvit_l1", {}, "efficientvit_b0"),
        ("efficientvit_b1", {"drop_path": 0.1}, "only 0"),
        ("vit_base_patch16_xp_224", {}, "plain Block"),
        ("vit_nano_patch4_32", {"method": "tome", "compression_ratio": 0.3}, "0.375 to 1"),
        ("deit_small_distilled_patch16_224", {}, "plain VisionTransformer"),
        ("vit_nano_patch4_32", {"target_gmacs": 1e-4}, "or more"),
        ("vit_nano_patch4_32", {"target_gmacs": 0.01, "compression_ratio": 0.5}, "one of them"),
    ],
)
def test_what_is_not_possible_is_named(backbone: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ltm.create_model(backbone, **options)


def test_a_budget_is_met_from_below() -> None:
    model = ltm.create_model("vit_nano_patch4_32", target_gmacs=0.01)
    (kept,) = model.plan.values()  # type: ignore[union-attr]
    assert ltm.count(model).gmacs <= 0.01
    model.set_compression({"blocks.0": kept + 1})  # type: ignore[operator]
    assert ltm.count(model).gmacs > 0.01


def test_elastic_ratios_depend_on_the_step_alone() -> None:
    ratios = [ltm.elastic_ratio((0.5, 1.0), step) for step in range(200)]
    assert ratios == [ltm.elastic_ratio((0.5, 1.0), step) for step in range(200)]
    assert 0.5 <= min(ratios) < 0.55
    assert 0.95 < max(ratios) <= 1
    assert ratios != [ltm.elastic_ratio((0.5, 1.0), step, seed=1) for step in range(200)]
    with pytest.raises(ValueError, match="low to high"):
        ltm.elastic_ratio((0.9, 0.5), 0)
