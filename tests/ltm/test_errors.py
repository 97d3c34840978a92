"""Mistakes as data, and the one sentence that is made of them."""

import pickle

import pytest

import ltm
from ltm.errors import FieldError, PluginError


def test_a_sentence_is_made_of_field_value_and_what_is_allowed() -> None:
    error = FieldError("compression_ratio", 1.5, "a number in (0, 1]")
    assert str(error) == "compression_ratio is 1.5, allowed is a number in (0, 1]"
    assert isinstance(error, ValueError)
    assert error.sentence("model.compression_ratio").startswith("model.compression_ratio is 1.5,")


def test_choices_bring_the_nearest_spelling() -> None:
    error = FieldError("method", "ltn", choices=["none", "ltm"])
    assert error.nearest == "ltm"
    assert str(error) == "method is 'ltn', allowed are none, ltm: did you mean 'ltm'?"
    assert FieldError("method", "xyz", choices=["none", "ltm"]).nearest is None
    assert FieldError("method", 3, choices=["none", "ltm"]).nearest is None


def test_similar_names_need_not_be_listed() -> None:
    error = FieldError("backbone", "vit_smal", problem="is unknown", similar=["vit_small", "swin"])
    assert str(error) == "backbone is unknown: did you mean 'vit_small'?"


@pytest.mark.parametrize(
    "error",
    [
        FieldError("plan", (9, 9), "a grid", "keeps (9, 9) at layers.2"),
        FieldError("method", "ltn", choices=("none", "ltm")),
        FieldError("backbone", "vit_smal", problem="is unknown", similar=("vit_small",)),
        PluginError("halving", "ltm.methods", "halve = halving:Halve", "is broken"),
    ],
)
def test_errors_cross_process_borders(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ({"compression_ratio": 1.5}, "compression_ratio", 1.5),
        ({"plan": {"blocks.0": 65}}, "plan", 65),
        ({"plan": {"blocks.9": 30}}, "plan", "blocks.9"),
        ({"target_gmacs": 1e-4}, "target_gmacs", 1e-4),
        ({"image_size": 30}, "image_size", (30, 30)),
        ({"drop_path": 1.0}, "drop_path", 1.0),
        ({"method": "ltn"}, "method", "ltn"),
        ({"rank": 0}, "options.rank", 0),
        ({"rnk": 0}, "options.rnk", "rnk"),
        ({"method": "tome", "r": -1}, "options.r", -1),
        ({"method": "tome", "r": 4, "compression_ratio": 0.5}, "options.r", 4),
        ({"method": "tome", "r": 4, "target_gmacs": 0.01}, "options.r", 4),
        ({"method": "tome", "schedule": "rising"}, "options.schedule", "rising"),
        ({"method": "tofu", "prune_blocks": 5}, "options.prune_blocks", 5),
        ({"method": "pitome", "margin": -1}, "options.margin", -1),
        ({"method": "ltmp", "freeze": "no"}, "options.freeze", "no"),
        ({"method": "savit", "images": 0}, "options.images", 0),
        ({"method": "savit", "plan": {"blocks.0.attn": 3}}, "plan", 3),
        ({"method": "none", "rank": 3}, "options.rank", 3),
        ({"checkpoint": "nowhere.pt"}, "checkpoint", "nowhere.pt"),
        ({"compression_ratio": 0.5, "target_gmacs": 1}, "compression_ratio", 0.5),
    ],
)
def test_field_and_value_are_those_of_the_argument(
    options: dict[str, object], field: str, value: object
) -> None:
    with pytest.raises(FieldError) as caught:
        ltm.create_model("vit_nano_patch4_32", **options)  # type: ignore[arg-type]
    assert (caught.value.field, caught.value.value) == (field, value)


def test_families_have_the_names_that_people_know() -> None:
    with pytest.raises(FieldError) as caught:
        ltm.create_model("resnet50")
    families = ("EfficientViT", "MobileViT", "Swin", "Swin V2", "plain ViT", "rotary ViT")
    assert [name.partition(" (")[0] for name in caught.value.choices] == [*families]
    assert "DINOv3" in str(caught.value)
    assert "_mit" not in str(caught.value)
