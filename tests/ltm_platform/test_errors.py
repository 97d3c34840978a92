import pickle

import pytest

from ltm_platform.errors import UserError
from ltm_platform.job import JobSpec


def refused(*overrides: str) -> UserError:
    with pytest.raises(UserError) as caught:
        JobSpec.load("quickstart", overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "fields"),
    [
        ("model.compression_ratio=1.5", {"model.compression_ratio": 1.5}),
        ("recipe.epoch=3", {"recipe.epoch": 3}),
        ("recipe.lr=fast", {"recipe.lr": "fast"}),
        ("recipe.global_batch=31", {"recipe.global_batch": 31}),
    ],
)
def test_a_mistake_carries_its_field_and_value(override: str, fields: dict[str, object]) -> None:
    assert refused(override).fields.items() >= fields.items()


def test_a_conflict_carries_both_fields() -> None:
    error = refused("model.target_gmacs=0.01", "model.compression_ratio=0.5")

    assert error.fields == {"model.target_gmacs": 0.01, "model.compression_ratio": 0.5}


def test_several_mistakes_carry_all_fields() -> None:
    error = refused("recipe.epochs=0", "recipe.lr=-1")

    assert error.fields == {"recipe.epochs": 0, "recipe.lr": -1}
    assert len(str(error).splitlines()) == 2


def test_an_error_is_whole_in_another_process() -> None:
    error = refused("recipe.epochs=0")

    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.fields) == (str(error), error.fields)
