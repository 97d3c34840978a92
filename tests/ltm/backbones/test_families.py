"""Every kind of backbone: one set of weights, grids kept, dense features, other sizes."""

import pytest
import torch

import ltm

from ..networks import NETWORKS, create, images, plain

backbones = pytest.mark.parametrize("backbone", NETWORKS)


@backbones
def test_one_set_of_weights_serves_every_ratio(backbone: str) -> None:
    model, x = create(backbone, compression_ratio=0.5), images(backbone)
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


@backbones
def test_dense_features_have_timms_shapes(backbone: str) -> None:
    base, model, x = plain(backbone), create(backbone, compression_ratio=0.5), images(backbone)
    with torch.no_grad():
        final, expected = base.forward_intermediates(x)
        merged, features = model.forward_intermediates(x)
        assert [f.shape for f in features] == [f.shape for f in expected]
        torch.testing.assert_close(merged, model.forward_features(x))
        last = model.forward_intermediates(x, indices=1, intermediates_only=True)
        torch.testing.assert_close(last[0], features[-1])
        model.set_compression(1.0)
        whole, features = model.forward_intermediates(x)
        torch.testing.assert_close(whole, final)
        torch.testing.assert_close(features, expected)


@backbones
def test_the_image_size_may_change(backbone: str) -> None:
    model = create(backbone, compression_ratio=0.5)
    size = 2 * NETWORKS[backbone].size
    with pytest.raises((ValueError, AssertionError), match=str(NETWORKS[backbone].size)):
        model(torch.randn(2, 3, size, size))
    before = model.sites
    model.set_input_size(size)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 5)
    assert model.sites != before


@backbones
def test_heads_and_classifiers_are_timms(backbone: str) -> None:
    model, x = create(backbone, compression_ratio=0.5), images(backbone)
    with torch.no_grad():
        tokens, classifier = model.forward_features(x), model.get_classifier()
        pooled = model.forward_head(tokens, pre_logits=True)
        assert pooled.shape == (2, model.head_hidden_size)
        if not isinstance(classifier, tuple):  # of a distilled DeiT, each looks at its own token
            torch.testing.assert_close(classifier(pooled), model(x))
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)


@backbones
def test_gradient_checkpointing_changes_nothing(backbone: str) -> None:
    model, x = create(backbone, compression_ratio=0.5), images(backbone)
    for module in model.modules():  # statistics of a batch would be counted twice
        module.train(not isinstance(module, torch.nn.BatchNorm2d))
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def test_ratios_on_grids_keep_rows_and_columns() -> None:
    model = create("efficientvit_b0", compression_ratio=0.7)
    assert model.plan == {"stages.2": (4, 3)}
    seen: list[torch.Size] = []
    model.stages[3].blocks[0].register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape))
    with torch.no_grad():
        model(images("efficientvit_b0"))
    assert seen[0][-2:] == (4, 3)
