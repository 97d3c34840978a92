"""Every model answers the same questions about its compression."""

from typing import Any

import pytest
import torch

import ltm

TINY = "vit_nano_patch4_32"


@pytest.mark.parametrize("method", ltm.list_methods())
def test_weights_travel_by_the_same_calls_whatever_the_method(method: str) -> None:
    options: dict[str, Any] = {} if method == "none" else {"compression_ratio": 0.7}
    torch.manual_seed(0)
    trained = ltm.create_model(TINY, method, num_classes=5, **options).eval()
    model = ltm.create_model(TINY, method, num_classes=5, **options).eval()
    state = ltm.compacted(trained).state_dict()
    compression = ltm.compressible(model)
    assert compression.plan == ltm.compressible(trained).plan
    compression.before_load(state)
    model.load_state_dict(state)
    compression.after_load(state)
    used = ltm.compacted(model)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(used(x), trained(x))
    compression.before_finetuning()
    fixed = method != "none" and used.method.shaped_by_plan
    compression.set_compression(1 if method == "none" else 0.7 if fixed else 0.6)
    assert compression.cost_is_learned == (method in {"s2vite", "savit"})
    with torch.no_grad():
        assert model(x).shape == (2, 5)


@pytest.mark.parametrize("method", ltm.list_methods())
def test_only_what_a_method_owns_may_be_lacking(method: str) -> None:
    model = ltm.create_model(TINY, method, num_classes=5)
    base = ltm.create_model(TINY, "none", num_classes=5).state_dict()
    compression = ltm.compressible(model)
    missing = {key for key in model.state_dict() if compression.may_be_missing(key)}
    assert missing == model.state_dict().keys() - base.keys()


def test_a_model_without_a_method_is_itself() -> None:
    model = ltm.create_model(TINY, "none")
    assert ltm.compacted(model) is model
    assert ltm.compressible(model).plan == {}
    assert ltm.compressible(model).compression is None


def test_what_was_asked_for_is_remembered() -> None:
    for method in ("ltm", "savit"):
        model: Any = ltm.create_model(TINY, method, compression_ratio=0.7)
        assert model.compression == 0.7
        model.set_compression(None)
        assert model.compression is None


def test_all_merges_together_leave_a_fraction_of_the_tokens() -> None:
    model: Any = ltm.create_model(TINY, "tome", plan={"blocks.0": 48, "blocks.2": 16})
    assert model.kept_tokens == 16 / 64
    model.set_compression(1)
    assert model.kept_tokens == 1
    swin = ltm.create_model("swin_nano_patch2_window4_32", plan={"layers.0": (3, 4)}, num_classes=2)
    assert ltm.compressible(swin).kept_tokens == 12 / 16
    assert ltm.compressible(ltm.create_model(TINY, "s2vite")).kept_tokens is None
