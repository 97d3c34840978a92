"""Plans that meet a budget of multiply-accumulates."""

import ltm


def test_a_budget_is_met_from_below() -> None:
    model = ltm.create_model("vit_nano_patch4_32", target_gmacs=0.01)
    (kept,) = model.plan.values()  # type: ignore[union-attr]
    assert ltm.count(model).gmacs <= 0.01
    model.set_compression({"blocks.0": kept + 1})  # type: ignore[operator]
    assert ltm.count(model).gmacs > 0.01
